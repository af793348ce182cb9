"""One address of several servers, as a TCP balancer has: the connections that a client asks for reach all of them."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from midrib.remote import RemoteBackbone
from midrib.remote.testing import serving
from tests.tcp_proxy import TcpProxy
from tests.twice_backbone import NAME, ROWS, Twice, new_registry


class Balancer(TcpProxy):
    """Gives each TCP connection the next of its servers."""

    def __init__(self, servers: list[str]) -> None:
        self._servers = itertools.cycle(servers)
        super().__init__(servers[0])

    def connect(self) -> socket.socket:
        self.target = next(self._servers)
        return super().connect()


@pytest.fixture()
def balancer() -> Iterator[Balancer]:
    """Two servers behind one address, which compute their first rows only together; one pass at a time each."""
    together = threading.Barrier(2)
    with (
        serving(NAME, registry=new_registry(Twice(together)), threads=1) as first,
        serving(NAME, registry=new_registry(Twice(together)), threads=1) as second,
        closing(Balancer([first.address, second.address])) as balancer,
    ):
        yield balancer


def test_several_connections_reach_several_servers(balancer: Balancer) -> None:
    """The rows of one call go to both, which answer only if both have some."""
    backbone = RemoteBackbone(f"grpc://{balancer.address}/{NAME}?connections=2", timeout=60.0)
    x = 1000 + torch.arange(2.0 * ROWS).reshape(ROWS, 2)
    assert torch.equal(backbone(x), 2 * x)
