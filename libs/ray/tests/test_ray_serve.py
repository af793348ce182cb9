"""Ray Serve with a real Ray: the answers of a plain server, replicas that come, go and are killed under load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from libs.ray.tests import serve_backbone  # noqa: F401 - registers the backbone of the plain server
from libs.ray.tests.serve_load import NAME, ROWS, Load, rows
from libs.ray.tests.serve_process import ServeProcess
from midrib.oip.v2 import inference_pb2
from midrib.remote import Client, RemoteBackbone
from midrib.server.testing import serving
from midrib.wire import BackboneNotFoundError, InvalidInputError

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

ITEMS = 10_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """One or two replicas, each of which computes for 20 ms a batch. Streams live for a second."""
    options = ["--min-replicas", "1", "--max-replicas", "2", "--cpus", "0.2", "--drain-s", "2"]
    options += ["--upscale-delay-s", "1", "--downscale-delay-s", "3"]
    process = ServeProcess(
        tmp_path_factory.mktemp("ray"), {"seconds": 0.02}, options, max_stream_age_s=1.0, max_batch_rows=16
    )
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


def test_answers_equal_those_of_a_plain_server(served: ServeProcess) -> None:
    """By our client, unchanged: the same revision, and the same bytes."""
    with serving(NAME) as plain, Client(plain.address) as single, Client(served.address) as many:
        expected, answer = single.embed(NAME, rows(10)), many.embed(NAME, rows(10))
        assert [info.revision for info in single.list()] == [info.revision for info in many.list()]
    assert answer.tobytes() == expected.tobytes()


def test_replicas_and_their_ingress_have_the_priority_of_a_plain_server(served: ServeProcess) -> None:
    """By default Ray lowers that of its workers, so that other processes of the node would delay calls."""
    processes = [*served.replicas(), *served.ingresses()]
    assert {os.getpriority(os.PRIO_PROCESS, process) for process in processes} == {os.getpriority(os.PRIO_PROCESS, 0)}


def test_a_remote_backbone_has_gradients(served: ServeProcess) -> None:
    """Backward is a unary call."""
    import torch

    backbone = RemoteBackbone(f"grpc://{served.address}/{NAME}")
    inputs = torch.ones(3, 2, requires_grad=True)
    backbone(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[2.0, 2.0]] * 3


def test_the_open_inference_protocol_is_served(served: ServeProcess) -> None:
    """On the same port, by single calls and by a stream."""
    values = rows(1)
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=values.shape)
    request = inference_pb2.ModelInferRequest(
        model_name=NAME, inputs=[tensor], raw_input_contents=[values.tobytes()]
    ).SerializeToString()
    with grpc.insecure_channel(served.address) as channel:
        unary: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answer = inference_pb2.ModelInferResponse.FromString(unary(request, timeout=60))
        parts = [
            inference_pb2.ModelStreamInferResponse.FromString(part) for part in stream(iter([request] * 3), timeout=60)
        ]
    expected = [(2 * values).tobytes()]
    assert list(answer.raw_output_contents) == expected
    assert [list(part.infer_response.raw_output_contents) for part in parts] == [expected] * 3


def test_errors_keep_their_reason(served: ServeProcess) -> None:
    """The details of a status pass Ray and its ingress."""
    with Client(served.address) as client:
        with pytest.raises(BackboneNotFoundError, match="served here"):
            client.embed("nothing", rows(1))
        with pytest.raises(InvalidInputError, match=r"has shape \[1, 3\]"):
            client.embed(NAME, np.ones((1, 3), np.float32))


def test_replicas_follow_the_load_and_lose_nothing(served: ServeProcess) -> None:
    """Devices that are busy bring a second replica. It leaves while a few calls still come, and takes none with it."""
    served.until(lambda replicas: len(replicas) == 1)
    light = Load(served.address, callers=2, pause_s=0.2)
    heavy = Load(served.address)
    served.until(lambda replicas: len(replicas) == 2)
    answers = heavy.stop()
    served.until(lambda replicas: len(replicas) == 1)
    assert min(answers, light.stop()) > 0


def test_a_killed_replica_costs_no_answer(served: ServeProcess) -> None:
    """Its calls are answered by the replica that Ray starts in its place."""
    load = Load(served.address)
    victim, *_ = served.until(bool)
    os.kill(victim, signal.SIGKILL)
    served.until(lambda replicas: bool(replicas) and victim not in replicas)
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS


def test_a_killed_ingress_costs_no_answer(served: ServeProcess) -> None:
    """Ray starts HAProxy again; the clients connect again and send unanswered items again."""
    load = Load(served.address)
    victims = set(served.ingresses())
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    served.until(lambda _replicas: bool(set(served.ingresses()) - victims))
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS


def test_a_killed_controller_costs_no_answer(served: ServeProcess) -> None:
    """Ray starts the controller of Serve again; the replicas serve meanwhile."""
    load = Load(served.address)
    (victim,) = served.controllers()
    os.kill(victim, signal.SIGKILL)
    served.until(lambda _replicas: bool(served.controllers()) and victim not in served.controllers())
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS


def test_a_revision_that_does_not_load_leaves_the_replicas(served: ServeProcess) -> None:
    """Each call is answered meanwhile, and afterwards; the command says why the file is not served."""
    load = Load(served.address, callers=2, pause_s=0.05)
    assert "nonsense" in served.replace_by_failing({"nonsense": 1.0})
    load.wait_for(ROWS)
    assert load.stop() > 0
    with Client(served.address, timeout=60) as client:
        assert client.embed(NAME, rows(1)).tolist() == (2 * rows(1)).tolist()


def test_another_revision_replaces_the_first(served: ServeProcess) -> None:
    """While the replicas are replaced, each call has the answer of one of the two; afterwards all have the new one."""
    answers = []
    with Client(served.address, timeout=60) as client, ThreadPoolExecutor(1) as threads:
        client.embed(NAME, rows(1))
        replacing = threads.submit(served.replace, {"scale": 3.0})
        while not replacing.done():
            answers.append(client.embed(NAME, np.ones((1, 2), np.float32))[0].tolist())
        replacing.result()
        for _ in iter(lambda: client.embed(NAME, np.ones((1, 2), np.float32))[0, 0], 3.0):
            pass
    assert {tuple(answer) for answer in answers} <= {(2.0, 2.0), (3.0, 3.0)}
