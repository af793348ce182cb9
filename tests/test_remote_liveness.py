"""Connections that die silently, are slow, or change under a client, through a proxy on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote import Client, RemoteBackbone
from midrib.remote._connect.transport import KEEPALIVE_S, open_channel
from midrib.remote.testing import serving
from midrib.server._settings import Settings
from midrib.wire import Array, RevisionMismatchError
from tests.tcp_proxy import TcpProxy, start
from tests.test_remote_security import Files

NAME = "test/liveness/scale"
WIDTH = 64 << 10


class Scale(nn.Module):
    """The first two values of a row, times a factor that makes the revision."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [rows, 2] for [rows, WIDTH]."""
        return x[:, :2] * self.factor


def new_registry(factor: float = 1.0) -> Registry:
    registry = Registry("test")
    registry(
        lambda: (Scale(factor), 2),
        name="scale",
        namespace="test/liveness",
        input=TensorInput((WIDTH,)),
        num_features=2,
    )
    return registry


def rows(value: float, count: int = 1) -> Array:
    return np.full((count, WIDTH), value, np.float32)


class Proxy(TcpProxy):
    """A TCP proxy.

    passes: decides for each chunk of a connection (its number) whether it is handed on.  delay_s: of each chunk.
    """

    def __init__(self, target: str) -> None:
        self.passes: Callable[[int], bool] = lambda number: True
        self.bytes_per_s = float("inf")
        self.delay_s = 0.0
        super().__init__(target)

    def handle(self, near: socket.socket) -> None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        far = self.connect()
        start(self._pump, self.connections, near, far, True)
        start(self._pump, self.connections, far, near, False)

    def _pump(self, number: int, source: socket.socket, sink: socket.socket, uploads: bool) -> None:
        with source, sink:
            try:
                while data := source.recv(1 << 14):
                    threading.Event().wait(self.delay_s + (len(data) / self.bytes_per_s if uploads else 0))
                    if self.passes(number):
                        sink.sendall(data)
            except OSError:
                return


def test_a_connection_that_died_before_the_stream_opens_is_replaced() -> None:
    """Its first call costs a third of the timeout, and no call is lost."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        client = stack.enter_context(Client(proxy.address, timeout=6.0))
        client.describe(NAME)
        proxy.passes = lambda number, dead=proxy.connections: number > dead  # type: ignore[misc]
        began = time.monotonic()
        assert client.embed(NAME, rows(3))[0, 0] == 3
        assert 1.0 < time.monotonic() - began < 5.0


async def test_pings_find_a_connection_that_died_while_it_was_idle() -> None:
    """The channel leaves the state READY without a call, so that the next call connects again."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry(), min_ping_interval_s=0.1))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        channel = open_channel(proxy.address, None, keepalive_s=0.5)
        await channel.channel_ready()
        proxy.passes = lambda _: False
        await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 30)
        assert channel.get_state() is not grpc.ChannelConnectivity.READY
        await channel.close()


def test_a_server_permits_the_clients_pings() -> None:
    """A server that found them too frequent would close every connection."""
    assert 2 * Settings().min_ping_interval_s <= KEEPALIVE_S


def test_a_dead_connection_is_replaced_for_every_client_of_the_process() -> None:
    """Giving up a shared channel ends no other client's calls."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        clients = [
            stack.enter_context(Client(proxy.address, timeout=6.0, priority=priority))
            for priority in ("interactive", "training", "bulk")
        ]
        clients[0].describe(NAME)
        proxy.passes = lambda number, dead=proxy.connections: number > dead  # type: ignore[misc]
        answers: list[float] = []
        threads = [
            threading.Thread(target=lambda c=client: answers.append(float(c.embed(NAME, rows(5))[0, 0])))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [5.0] * 3


def test_a_path_with_a_long_round_trip_is_connected_under_tls(tmp_path: Path) -> None:
    """The first attempt has one second, less than the handshake takes at 0.6 s a round trip; later ones have more."""
    files = Files(tmp_path)
    with ExitStack() as stack:
        settings = {"tls_certificate": files.server, "tls_key": files.server}
        server = stack.enter_context(serving(NAME, registry=new_registry(), **settings))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        proxy.delay_s = 0.3
        client = stack.enter_context(Client(proxy.address, timeout=60.0, tls=files.roots))
        assert client.describe(NAME).num_features == 2
        proxy.delay_s = 0.0
        assert client.embed(NAME, rows(3))[0, 0] == 3


def test_an_upload_slower_than_a_third_of_the_timeout_is_sent_once() -> None:
    """Bytes that the peer acknowledges count as life."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        proxy.bytes_per_s = 1e6
        client = stack.enter_context(Client(proxy.address, timeout=9.0))
        assert client.embed(NAME, rows(2, 20))[-1, 0] == 2  # 5.2 MB: over 5 s, where 3 s of silence are too many
        assert proxy.connections == 1


def test_a_plain_client_follows_a_rolling_upgrade() -> None:
    """Of two servers the older one leaves: the calls go to the other one's revision."""
    with ExitStack() as stack:
        leaving = stack.enter_context(ExitStack())
        old = leaving.enter_context(serving(NAME, registry=new_registry(1.0)))
        new = stack.enter_context(serving(NAME, registry=new_registry(2.0)))
        client = stack.enter_context(Client(f"{old.address},{new.address}", timeout=20.0))
        assert client.embed(NAME, rows(3))[0, 0] == 3
        leaving.close()
        assert [float(client.embed(NAME, rows(3))[0, 0]) for _ in range(5)] == [6.0] * 5


def test_a_pinned_backbone_names_the_revision_that_is_left() -> None:
    """The error says which revision is served and which one is pinned, not that a connection broke."""
    with ExitStack() as stack:
        leaving = stack.enter_context(ExitStack())
        old = leaving.enter_context(serving(NAME, registry=new_registry(1.0)))
        new = stack.enter_context(serving(NAME, registry=new_registry(2.0)))
        backbone = RemoteBackbone(f"grpc://{old.address},{new.address}/{NAME}", timeout=3.0)
        backbone(torch.ones(1, WIDTH))
        leaving.close()
        with pytest.raises(RevisionMismatchError, match=f"revision .*{backbone.revision[:12]}"):
            backbone(torch.ones(1, WIDTH))


def test_a_gradient_may_take_as_long_as_its_upload_progresses() -> None:
    """The upload takes longer than the timeout: the deadline moves with it, and it is sent once."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        x = torch.full((24, WIDTH), 2.0, requires_grad=True)  # 6.3 MB
        features = RemoteBackbone(f"grpc://{proxy.address}/{NAME}", timeout=3.0)(x)
        proxy.bytes_per_s = 1e6
        (gradient,) = torch.autograd.grad(features.sum(), x)
        assert gradient[:, :2].eq(1).all()
        assert proxy.connections == 1


def test_another_streams_traffic_does_not_hide_a_dead_one() -> None:
    """A busy client with another token has its own connection to the same server; a dead one is still replaced."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address)))
        client = stack.enter_context(Client(proxy.address, timeout=6.0))
        client.describe(NAME)
        dead = proxy.connections
        busy = stack.enter_context(Client(proxy.address, timeout=6.0, token="another"))
        busy.embed(NAME, rows(1))
        proxy.passes = lambda number: number != dead
        done = threading.Event()
        thread = threading.Thread(target=lambda: _call_until(busy, done))
        thread.start()
        try:
            assert client.embed(NAME, rows(3))[0, 0] == 3
        finally:
            done.set()
            thread.join()


def _call_until(client: Client, done: threading.Event) -> None:
    while not done.wait(0.05):
        client.embed(NAME, rows(1))
