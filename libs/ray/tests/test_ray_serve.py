"""Ray Serve with a real Ray: the answers of a plain server, replicas that come, go and are killed under load."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from libs.ray.tests import serve_backbone  # noqa: F401 - registers the backbone of the plain server
from libs.ray.tests.serve_process import ServeProcess
from midrib.remote import Client, RemoteBackbone
from midrib.server.testing import serving
from midrib.wire import BackboneNotFoundError, InvalidInputError

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

NAME = "test/embedding/times"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """One or two replicas, each of which computes for 20 ms a batch. Streams live for a second."""
    options = ["--min-replicas", "1", "--max-replicas", "2", "--cpus", "0.2", "--drain-s", "2"]
    options += ["--upscale-delay-s", "1", "--downscale-delay-s", "3"]
    process = ServeProcess(
        tmp_path_factory.mktemp("ray"), {"seconds": 0.02}, options, max_stream_age_s=1.0, max_batch_rows=4
    )
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


class Load:
    """Callers that each count up, and check every answer, until they are stopped.

    pause_s: between two calls of a caller.  It is made once each caller has had an answer.
    """

    def __init__(self, address: str, *, callers: int = 8, pause_s: float = 0.0) -> None:
        self._address = address
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._answered = threading.Barrier(callers + 1, timeout=60)
        self._threads = ThreadPoolExecutor(callers)
        self._calls = [self._threads.submit(self._call, 1000.0 * caller) for caller in range(callers)]
        self._answered.wait()

    def _call(self, first: float) -> int:
        count = 0
        with Client(self._address, timeout=120) as client:
            client.embed(NAME, rows(1))
            self._answered.wait()
            while not self._stop.wait(self._pause_s):
                number = first + count
                assert client.embed(NAME, np.full((1, 2), number, np.float32)).tolist() == [[2 * number, 2 * number]]
                count += 1
        return count

    def stop(self) -> int:
        """Return the number of answers; raises the first error of a caller."""
        self._stop.set()
        return sum(call.result(150) for call in self._calls)


def rows(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def test_answers_equal_those_of_a_plain_server(served: ServeProcess) -> None:
    """By our client, unchanged: the same revision, and the same bytes."""
    with serving(NAME) as plain, Client(plain.address) as single, Client(served.address) as many:
        expected, answer = single.embed(NAME, rows(10)), many.embed(NAME, rows(10))
        assert [info.revision for info in single.list()] == [info.revision for info in many.list()]
    assert answer.tobytes() == expected.tobytes()


def test_a_remote_backbone_has_gradients(served: ServeProcess) -> None:
    """Backward is a unary call."""
    import torch

    backbone = RemoteBackbone(f"grpc://{served.address}/{NAME}")
    inputs = torch.ones(3, 2, requires_grad=True)
    backbone(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[2.0, 2.0]] * 3


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
    assert load.stop() > 0


def test_a_killed_ingress_costs_no_answer(served: ServeProcess) -> None:
    """Ray starts HAProxy again; the clients connect again and send what had no answer."""
    load = Load(served.address)
    victims = set(served.ingresses())
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    served.until(lambda _replicas: bool(set(served.ingresses()) - victims))
    assert load.stop() > 0


def test_a_killed_controller_costs_no_answer(served: ServeProcess) -> None:
    """Ray starts the controller of Serve again; the replicas go on meanwhile."""
    load = Load(served.address)
    (victim,) = served.controllers()
    os.kill(victim, signal.SIGKILL)
    served.until(lambda _replicas: bool(served.controllers()) and victim not in served.controllers())
    assert load.stop() > 0


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
