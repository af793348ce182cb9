"""One address of several servers, as a TCP balancer has: the connections that a client asks for reach all of them."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.remote import RemoteBackbone
from midrib.remote.testing import serving

NAME = "test/numbers/twice"
ROWS = 8 * 1024  # eight messages: more than one stream's window


class Twice(nn.Module):
    """Doubles its rows; two of them compute their first rows only together."""

    def __init__(self, together: threading.Barrier) -> None:
        super().__init__()
        self.together = together
        self.waits = True

    def forward(self, rows: Tensor) -> Tensor:
        if self.waits and bool((rows >= 1000).all()):  # not those of the loading's own checks
            self.together.wait(10)
            self.waits = False
        return rows * 2


def new_registry(together: threading.Barrier) -> Registry:
    registry = Registry("test")
    module = Twice(together)
    registry(lambda: (module, 2), name="twice", namespace="test/numbers", input=TensorInput((2,)), num_features=2)
    return registry


class Balancer:
    """Gives each TCP connection the next of its servers."""

    def __init__(self, servers: list[str]) -> None:
        self._servers = itertools.cycle(servers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = next(self._servers).rpartition(":")
            far = socket.create_connection((host, int(port)))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            try:
                while data := source.recv(1 << 14):
                    sink.sendall(data)
            except OSError:
                return


@pytest.fixture()
def balancer() -> Iterator[Balancer]:
    """Two servers behind one address, which compute their first rows only together; one pass at a time each."""
    together = threading.Barrier(2)
    with (
        serving(NAME, registry=new_registry(together), threads=1) as first,
        serving(NAME, registry=new_registry(together), threads=1) as second,
        closing(Balancer([first.address, second.address])) as balancer,
    ):
        yield balancer


def test_several_connections_reach_several_servers(balancer: Balancer) -> None:
    """The rows of one call go to both, which answer only if both have some."""
    backbone = RemoteBackbone(f"grpc://{balancer.address}/{NAME}?connections=2", timeout=60.0)
    x = 1000 + torch.arange(2.0 * ROWS).reshape(ROWS, 2)
    assert torch.equal(backbone(x), 2 * x)
