"""A server whose replicas are processes answers as one whose replicas are threads, and outlives them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from prometheus_client import generate_latest
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote._command.status.metrics import Scrape, parse
from midrib.remote._command.status.report import status_of
from midrib.server._worker.bootstrap import PROCESS_NAME
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor, encode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]
Embed = Callable[..., list[Array | str]]
TRIGGER = 666.0


def rows(value: float, count: int = 1) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=encode_tensor(np.full((count, 2), value, np.float32)))


def workers(parent: int | None = None) -> set[int]:
    """The workers of this process, by their pids: its children, or those of the process that forks them."""
    pids: set[int] = set()
    for thread in Path(f"/proc/{parent or os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            pids.update(map(int, (thread / "children").read_text().split()))
    forked = [workers(pid) for pid in pids]
    return {pid for pid in pids if process_name(pid) == PROCESS_NAME}.union(*forked)


def process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.fixture(params=["thread", "process"])
def either(request: pytest.FixtureRequest, serve: Serve) -> Iterator[RunningServer]:
    """Serves three backbones, each by two replicas."""
    with serve("layer", "words", "doubling", workers=request.param, replicas=2, admin=True) as running:
        yield running


def test_rows_of_any_number_are_those_of_the_module(either: RunningServer, embed: Embed, misbehaving: Registry) -> None:
    """The numbers range from one row to more than a buffer has held before."""
    module, _ = misbehaving.get("layer")()
    inputs = [np.random.default_rng(count).standard_normal((count, 2)).astype(np.float32) for count in (1, 7, 1000, 2)]
    embedded = embed(either, *(embedding_pb2.Input(tensor=encode_tensor(array)) for array in inputs), backbone="layer")
    for array, result in zip(inputs, embedded, strict=True):
        expected = module(torch.from_numpy(array)).detach().numpy()
        np.testing.assert_allclose(np.asarray(result), expected, atol=1e-6)


def test_texts_of_unequal_lengths_are_padded(either: RunningServer, embed: Embed) -> None:
    """The tokenizer works in the server, the lengths of one batch differ: alone or together the rows are the same."""
    texts = ["a", "a b c", "one two three four five six seven"]
    separate = [embed(either, embedding_pb2.Input(texts={"texts": [text]}), backbone="words")[0][0] for text in texts]
    (together,) = embed(either, embedding_pb2.Input(texts={"texts": texts}), backbone="words")
    np.testing.assert_allclose(together, np.stack(separate), atol=1e-6)  # type: ignore[arg-type] # no statuses here


def test_gradients_are_those_of_the_module(either: RunningServer) -> None:
    """Backward of a doubling: twice the gradient by the embedding."""
    gradient = np.arange(6, dtype=np.float32).reshape(3, 2)
    request = embedding_pb2.BackwardRequest(
        backbone="doubling", input=encode_tensor(np.ones((3, 2), np.float32)), grad_embedding=encode_tensor(gradient)
    )
    with grpc.insecure_channel(either.address) as channel:
        reply = embedding_pb2_grpc.EmbeddingServiceStub(channel).Backward(request, timeout=20)
    assert decode_tensor(reply.grad_input, field="grad_input").tolist() == (2 * gradient).tolist()


def test_an_item_that_fails_spoils_only_itself(either: RunningServer, embed: Embed) -> None:
    """Its caller learns none of the module's words."""
    values = [1.0, TRIGGER, 2.0, TRIGGER, 3.0]
    outcomes = embed(either, *map(rows, values), backbone="doubling")
    assert [outcome if isinstance(outcome, str) else float(outcome[0, 0]) for outcome in outcomes] == [
        2.0,
        "INTERNAL",
        4.0,
        "INTERNAL",
        6.0,
    ]


def test_a_backbone_is_swapped_and_unloaded(either: RunningServer, embed: Embed) -> None:
    """Another seed, other rows; then the name is gone."""
    before = embed(either, rows(1), backbone="layer")[0]
    with grpc.insecure_channel(either.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        seed = {"seed": backbone_pb2.Argument(int_value=1)}
        stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="layer", arguments=seed, replace=True), timeout=60)
        after = embed(either, rows(1), backbone="layer")[0]
        stub.UnloadBackbone(backbone_pb2.UnloadBackboneRequest(name="layer"), timeout=20)
    assert np.abs(np.asarray(before) - np.asarray(after)).max() > 0.01
    assert embed(either, rows(1), backbone="layer") == ["NOT_FOUND"]


def test_workers_are_gone_after_a_dry_run_an_unload_and_the_end(serve: Serve) -> None:
    """Each replica is a process, which ends with its backbone."""
    before = workers()
    with serve("doubling", replicas=2, admin=True) as running, grpc.insecure_channel(running.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        assert len(workers() - before) == 2
        stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="layer", dry_run=True), timeout=60)
        assert len(workers() - before) == 2
        stub.UnloadBackbone(backbone_pb2.UnloadBackboneRequest(name="doubling"), timeout=20)
        assert workers() - before == set()


def test_no_worker_is_left_of_a_load_that_does_not_fit(serve: Serve) -> None:
    """Its weights are known once it is loaded: beyond the budget its worker ends with the refusal."""
    before = workers()
    with serve(admin=True, device_memory_bytes=1) as running, grpc.insecure_channel(running.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="bytes of weights do not fit"):
            stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="layer"), timeout=60)
        assert workers() - before == set()


def test_a_backbone_beside_one_that_dies_answers_all_the_time(serve: Serve, embed: Embed) -> None:
    """A hundred calls to it while the other's worker is killed by an item; the metrics count its restart."""
    with serve({"name": "doubling", "arguments": {"fault": "killed"}}, "layer") as running:
        refused: list[Array | str] = []
        dying = threading.Thread(target=lambda: refused.extend(embed(running, rows(TRIGGER), backbone="doubling")))
        dying.start()
        answered = embed(running, *[rows(1)] * 100, backbone="layer")
        dying.join()
        restarts = running.server.catalogue.metrics.registry.get_sample_value(
            "midrib_worker_restarts_total", {"backbone": "test/embedding/doubling"}
        )
    assert refused == ["INTERNAL"]
    assert [outcome for outcome in answered if isinstance(outcome, str)] == []
    assert restarts in (1, 2)  # the second one starts as the item is refused


def test_under_load_no_item_is_lost_or_wrong_while_workers_are_killed(serve: Serve, embed: Embed) -> None:
    """Both replicas lose their workers six times: each item has its own rows, or its caller may try again."""
    before, outcomes = workers(), dict[int, Array | str]()
    with serve("doubling", replicas=2) as running:
        for start in range(1000, 4000, 500):
            inputs = [rows(number) for number in range(start, start + 500)]
            embedding = threading.Thread(
                target=lambda first, batch: outcomes.update(
                    enumerate(embed(running, *batch, backbone="doubling"), start=first)
                ),
                args=(start, inputs),
            )
            embedding.start()
            kill(*workers() - before)
            embedding.join()
    wrong = {
        number: outcome
        for number, outcome in outcomes.items()
        if (outcome != "UNAVAILABLE" if isinstance(outcome, str) else outcome.tolist() != [[2.0 * number] * 2])
    }
    assert (len(outcomes), wrong) == (3000, {})


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_loader_that_no_fresh_process_finds_computes_in_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Registered by a test's own function, say: one line of the log says so."""
    local = Registry("local")
    local(lambda: (nn.Identity(), 2), name="inner", namespace="test/embedding", input=TensorInput((2,)))
    before = workers()
    with (
        caplog.at_level(logging.WARNING, "midrib.server._catalogue.loading"),
        serving("inner", registry=local, workers="process", warm_up_s=0.0) as running,
    ):
        assert workers() == before
        assert running.server.catalogue.ready
    assert [message for message in caplog.messages if "computes in a thread of the server" in message] != []


def test_no_worker_outlives_a_server_that_is_killed() -> None:
    """SIGKILL leaves it no time to end its workers: they notice it and end."""
    script = textwrap.dedent("""
        import os
        from misbehaving import REGISTRY
        from midrib.server.testing import serving
        with serving("doubling", registry=REGISTRY, workers="process", warm_up_s=0.0) as running:
            states = running.server.catalogue.entry("doubling").ready().worker_states()
            print(*[state.pid for state in states], flush=True)
            os.kill(os.getpid(), 9)
        """)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    (worker,) = map(int, ended.stdout.split())
    assert ended.returncode == -signal.SIGKILL
    waited = threading.Event()
    alive = [waited.wait(0.05) for _ in range(40) if Path(f"/proc/{worker}/cmdline").exists() and cmdline(worker)]
    assert len(alive) < 40


def cmdline(pid: int) -> bytes:
    """The arguments of a process; empty for one that has ended and is not reaped yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_status_shows_each_worker(serve: Serve) -> None:
    """Its process id, its memory and its state, for `midrib status`."""
    with serve("doubling", replicas=2) as running:
        metrics = generate_latest(running.server.catalogue.metrics.registry).decode()
        scrape = Scrape(0.0, parse(metrics))
        (status,) = status_of(scrape, scrape).backbones
        pids = {worker.pid for worker in status.workers}
        assert pids <= workers()
    assert (status.state, status.restarts, len(pids)) == ("ready", 0, 2)
    assert all(worker.running and worker.memory_bytes > 2**20 for worker in status.workers)
