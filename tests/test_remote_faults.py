"""Servers that end, drain, refuse or change during calls; and a network that breaks at random."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import ExitStack, closing

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote import AsyncClient, Client, RemoteBackbone
from midrib.server.testing import serving
from midrib.wire import Array, DeadlineExceededError, RevisionMismatchError, UnavailableError
from tests.tcp_proxy import TcpProxy, start

NAME = "test/numbers/mlp"
WIDTH = 8


def new_registry(seed: int = 0) -> Registry:
    """A registry whose backbone's weights come from the seed."""
    registry = Registry("test")

    def mlp() -> tuple[nn.Module, int]:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh()).eval(), 16

    registry(mlp, name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=16)
    return registry


def local(x: Array, seed: int = 0) -> Array:
    module, _ = new_registry(seed).load(NAME)
    array: Array = module(torch.from_numpy(x)).detach().numpy()
    return array


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)


class Proxy(TcpProxy):
    """A TCP proxy that damages the traffic: drops, truncates, resets, delays or swallows connections at random."""

    def __init__(self, target: str, seed: int) -> None:
        self._random = random.Random(seed)
        self.harmed = self.delayed = 0
        super().__init__(target)

    def handle(self, near: socket.socket) -> None:
        far = self.connect()
        life = self._random.randrange(2_000, 200_000)  # bytes, after which this connection is harmed
        start(self._pump, near, far, life)
        start(self._pump, far, near, life)

    def _pump(self, source: socket.socket, sink: socket.socket, life: int) -> None:
        with source, sink:
            try:
                while data := source.recv(1 << 14):
                    life -= len(data)
                    if self._random.random() < 0.1:
                        threading.Event().wait(self._random.uniform(0.0, 0.03))  # the traffic is late
                        self.delayed += 1
                    if life < 0:
                        self.harmed += 1
                        self._harm(source, sink, data)
                        return
                    sink.sendall(data)
            except OSError:
                pass
            _shut(source, sink)

    def _harm(self, source: socket.socket, sink: socket.socket, data: bytes) -> None:
        kind = self._random.choice(["drop", "reset", "truncate", "swallow"])
        if kind == "truncate":
            sink.sendall(data[: len(data) // 2])
        if kind == "swallow":  # the connection stays open, and nothing passes any more
            while source.recv(1 << 14):
                pass
        if kind == "reset":
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        _shut(source, sink)


@pytest.mark.usefixtures("front")
def test_ten_thousand_items_through_a_harmful_network() -> None:
    """Connections are dropped, reset, truncated, delayed and swallowed: every item comes once, whole and in order."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(NAME, registry=new_registry()))
        proxy = stack.enter_context(closing(Proxy(server.address, seed=7)))
        client = stack.enter_context(Client(proxy.address, timeout=6.0))
        batches = [rows(1 + index % 3, index) for index in range(10_000)]
        got = list(client.embed_stream(NAME, batches))
        assert proxy.harmed > 5
        assert proxy.delayed > 5
        assert len(got) == len(batches)
        np.testing.assert_allclose(np.concatenate(got), local(np.concatenate(batches)), atol=1e-5)


def test_training_goes_on_over_a_restart(free_port: int) -> None:
    """A server that stops and comes back at its address answers the calls that waited for it."""
    x = rows(4)
    with serving(NAME, registry=new_registry(), port=free_port) as server:
        backbone = RemoteBackbone(server.url(NAME), timeout=20.0)
        before = backbone(torch.from_numpy(x))
    answers: list[torch.Tensor] = []
    waiting = threading.Thread(target=lambda: answers.append(backbone(torch.from_numpy(x))))
    waiting.start()
    with serving(NAME, registry=new_registry(), port=free_port):
        waiting.join()
    assert torch.equal(answers[0], before)


def test_another_revision_after_a_restart_is_refused(free_port: int) -> None:
    """Rows of two functions are never mixed: the error says so, and what to do."""
    with serving(NAME, registry=new_registry(0), port=free_port) as server:
        backbone = RemoteBackbone(server.url(NAME), timeout=20.0)
        backbone(torch.zeros(1, WIDTH))
    with (
        serving(NAME, registry=new_registry(1), port=free_port),
        pytest.raises(RevisionMismatchError, match="revision"),
    ):
        backbone(torch.zeros(1, WIDTH))


def test_a_client_that_pinned_nothing_follows_the_server(free_port: int) -> None:
    """All rows of one call are of one revision, the server's newest."""
    x = rows(3)
    with serving(NAME, registry=new_registry(0), port=free_port) as server:
        client = Client(server.address, timeout=20.0)
        np.testing.assert_allclose(client.embed(NAME, x), local(x, 0), atol=1e-5)
    with serving(NAME, registry=new_registry(1), port=free_port):
        np.testing.assert_allclose(client.embed(NAME, x), local(x, 1), atol=1e-5)


def test_a_server_that_leaves_hands_over_to_the_other() -> None:
    """Of two addresses one drains while a stream runs: nothing is lost, nothing doubled."""
    batches = [rows(2, index) for index in range(600)]
    with ExitStack() as stack:
        evictions = stack.enter_context(ExitStack())
        first = evictions.enter_context(serving(NAME, registry=new_registry()))
        second = stack.enter_context(serving(NAME, registry=new_registry()))
        client = stack.enter_context(Client(f"{first.address},{second.address}", timeout=20.0))
        stream = client.embed_stream(NAME, batches)
        got = [next(stream) for _ in range(200)]
        evictions.close()
        got += list(stream)
    np.testing.assert_allclose(np.concatenate(got), local(np.concatenate(batches)), atol=1e-5)


def test_an_address_of_another_revision_is_left_out() -> None:
    """Only servers of the pinned revision take part."""
    x = rows(5)
    with serving(NAME, registry=new_registry(0)) as right, serving(NAME, registry=new_registry(1)) as other:
        backbone = RemoteBackbone(f"grpc://{right.address},{other.address}/{NAME}", timeout=20.0)
        got = [backbone(torch.from_numpy(x)).numpy() for _ in range(20)]
    np.testing.assert_allclose(np.stack(got), np.stack([local(x)] * 20), atol=1e-5)


def test_a_dead_address_is_left_out(free_port: int) -> None:
    """A call goes to the address that answers, wherever it stands in the list."""
    x = rows(5)
    with serving(NAME, registry=new_registry()) as server, Client(f"127.0.0.1:{free_port},{server.address}") as client:
        np.testing.assert_allclose(client.embed(NAME, x), local(x), atol=1e-5)


def test_the_error_names_a_server_that_left() -> None:
    """A call that waited in vain for the server reports that no server answers, not that the timeout was short."""
    with serving(NAME, registry=new_registry()) as server:
        client = Client(server.address, timeout=2.0)
        client.embed(NAME, rows(1))
    with pytest.raises(UnavailableError, match="no server answers at 127.0.0.1.*midrib serve"):
        client.embed(NAME, rows(2))


async def test_an_async_client_raises_the_same_error() -> None:
    """The error is raised by awaiting the call."""
    with serving(NAME, registry=new_registry()) as server:
        client = AsyncClient(server.address, timeout=2.0)
        await client.embed(NAME, rows(1))
    with pytest.raises(UnavailableError, match="no server answers at 127.0.0.1.*midrib serve"):
        await client.embed(NAME, rows(2))


def test_retries_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """The error says all; nothing is written to the user's log meanwhile."""
    with pytest.raises(UnavailableError, match="no server answers"):
        Client("127.0.0.1:9", timeout=0.5).list()
    assert caplog.records == []


def test_a_silent_server_ends_at_the_deadline() -> None:
    """Something that accepts and never answers costs the timeout, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, timeout=0.5) as client, pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
            client.describe(NAME)


@pytest.fixture()
def free_port() -> int:
    """A port that was free a moment ago, for servers that come back to it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
