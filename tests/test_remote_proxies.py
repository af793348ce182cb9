"""A proxy that has no server for a moment: calls wait while it refuses them. Real proxies run in benchmarks/proxies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
import torch

from midrib.remote import Client, RemoteBackbone
from midrib.remote.testing import RunningServer, serving
from tests.tcp_proxy import TcpProxy, start

MLP = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}
NAME = str(MLP["name"])
X = np.ones((2, 8), np.float32)
HEADERS, RST_STREAM, SETTINGS, GOAWAY = 1, 3, 4, 7
END_OF_STREAM_AND_HEADERS = 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def html(status: int) -> bytes:
    """Return the headers of an answer in HTML: literal fields with the names 8 and 31 of HPACK's table."""
    return b"\x48\x03" + str(status).encode() + b"\x5f\x09text/html"


# The answer of Ray Serve's HAProxy while it knows no application: a gRPC status, without the details of a server.
NO_APPLICATION = (
    b"\x88\x5f\x10application/grpc\x40\x0bgrpc-status\x015\x40\x0cgrpc-message\x6d"
    b"Application metadata not set. Ping /ray.serve.RayServeAPIService/ListApplications for available applications."
)


class Proxy(TcpProxy):
    """An HTTP/2 proxy that answers every call with a frame until it `has_server`; then it passes bytes on.

    answer: returns the frame for a stream.
    """

    def __init__(self, target: str, answer: Callable[[int], bytes]) -> None:
        self.has_server = threading.Event()
        self.refused = threading.Event()
        self._answer = answer
        super().__init__(target)

    def handle(self, near: socket.socket) -> None:
        if self.has_server.is_set():
            super().handle(near)
        else:
            start(self._refuse, near)

    def _refuse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as frames:
            connection.sendall(frame(SETTINGS, 0, 0, b""))
            frames.read(len(PREFACE))
            while len(head := frames.read(9)) == 9:
                frames.read(int.from_bytes(head[:3], "big"))
                if head[3] == HEADERS:
                    connection.sendall(self._answer(int.from_bytes(head[5:], "big")))
                    self.refused.set()
                if self.has_server.is_set():
                    connection.sendall(frame(GOAWAY, 0, 0, bytes(8)))
                    return


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MLP) as server:
        yield server


def module(address: str) -> Any:
    return RemoteBackbone(f"grpc://{address}/{NAME}", timeout=30.0)(torch.from_numpy(X)).numpy()


def embed(address: str) -> Any:
    return Client(address, timeout=30.0).embed(NAME, X)


CALLS: list[Callable[[str], Any]] = [embed, module]


def only_headers(headers: bytes) -> Callable[[int], bytes]:
    return lambda stream: frame(HEADERS, END_OF_STREAM_AND_HEADERS, stream, headers)


def reset(code: int) -> Callable[[int], bytes]:
    return lambda stream: frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def check_waited_for(server: RunningServer, *, answer: Callable[[int], bytes], after_s: float) -> None:
    """Check calls, at the same time, through proxies that answer every call with this frame for some seconds."""
    with ExitStack() as stack:
        expected = stack.enter_context(Client(server.address)).embed(NAME, X)
        proxies = [stack.enter_context(closing(Proxy(server.address, answer))) for _ in CALLS]
        timers = [threading.Timer(after_s, proxy.has_server.set) for proxy in proxies]
        threads = stack.enter_context(ThreadPoolExecutor())
        answers = [threads.submit(call, proxy.address) for call, proxy in zip(CALLS, proxies, strict=True)]
        for timer in timers:
            timer.start()
            stack.callback(timer.join)
        for result, proxy in zip(answers, proxies, strict=True):
            np.testing.assert_allclose(result.result(), expected, atol=1e-6)
            assert proxy.refused.is_set()


@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_without_a_server_is_waited_for(server: RunningServer, status: int) -> None:
    """For longer than the five seconds after which a wrong address is an error."""
    check_waited_for(server, answer=only_headers(html(status)), after_s=6.0)


def test_a_proxy_that_has_no_routes_yet_is_waited_for(server: RunningServer) -> None:
    """Traefik answers 404 from the start of its listener until it has read its routes."""
    check_waited_for(server, answer=only_headers(html(404)), after_s=1.0)


def test_an_ingress_of_ray_that_knows_no_application_yet_is_waited_for(server: RunningServer) -> None:
    """HAProxy does so if it starts while Ray starts the controller of Serve again."""
    check_waited_for(server, answer=only_headers(NO_APPLICATION), after_s=6.0)


def test_a_proxy_that_has_no_room_for_another_call_is_waited_for(server: RunningServer) -> None:
    """It resets each call with ENHANCE_YOUR_CALM, as does a Midrib server above max_connection_streams."""
    check_waited_for(server, answer=reset(11), after_s=1.0)


def test_a_training_continues_where_a_connection_permits_one_call() -> None:
    """The stream occupies it, so gradients use a second connection; before, each gradient waited and opened another."""
    with ExitStack() as stack:
        limited = stack.enter_context(serving(MLP, max_connection_streams=1))
        proxy = stack.enter_context(closing(TcpProxy(limited.address)))
        backbone = RemoteBackbone(f"grpc://{proxy.address}/{NAME}", timeout=9.0)
        rows = torch.ones((2, 8), requires_grad=True)
        for _ in range(6):
            backbone(rows).sum().backward()
        assert proxy.connections <= 5
