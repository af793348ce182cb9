"""Remote backbones through shared memory: the same features as over the network, and a silent fall-back to it."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput, TextInput
from midrib.remote import AsyncClient, Client, RemoteBackbone
from midrib.server.testing import RunningServer, serving
from midrib.wire import Array, InvalidInputError, UnsupportedError

REGISTRY = Registry("for shared memory")
NAME = "test/embedding/wide"
IDS = "test/embedding/ids"
WIDTH = 4096
ROW_BYTES = 4 * WIDTH


class Scale(nn.Module):
    """Each row's first features, times three."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows[:, : WIDTH // 2] * 3


class Numbers(nn.Module):
    """The sum of the token ids, and their number."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([ids.sum(1), (ids != 0).sum(1)], 1).to(torch.float32)


@REGISTRY(name="wide", namespace="test/embedding", input=TensorInput((WIDTH,)))
def load_wide() -> tuple[nn.Module, int]:
    return Scale(), WIDTH // 2


@REGISTRY(name="ids", namespace="test/embedding", input=TextInput(256))
def load_ids() -> tuple[nn.Module, int]:
    return Numbers(), 2


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("wide", "ids", registry=REGISTRY) as running:
        yield running


@pytest.fixture(scope="module")
def without() -> Iterator[RunningServer]:
    """A server that shares no memory."""
    with serving("wide", registry=REGISTRY, shared_memory=False) as running:
        yield running


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def shared_bytes(running: RunningServer) -> float:
    return running.server.catalogue.metrics.registry.get_sample_value("midrib_shared_memory_bytes") or 0.0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 1024, 4096])
def test_features_equal_those_of_the_network(server: RunningServer, count: int) -> None:
    """For a row, for a call, and for one that is larger than the segment."""
    x = rows(count)
    with Client(server.address, shared_memory=True) as shared, Client(server.address, shared_memory=False) as wire:
        np.testing.assert_array_equal(shared.embed(NAME, x), wire.embed(NAME, x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8"])
def test_every_type_of_features(server: RunningServer, dtype: str) -> None:
    """int8 features come in messages, because they have scales."""
    x = rows(64)
    with Client(server.address, shared_memory=True) as shared, Client(server.address, shared_memory=False) as wire:
        np.testing.assert_array_equal(shared.embed(NAME, x, dtype=dtype), wire.embed(NAME, x, dtype=dtype))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_integers(server: RunningServer, dtype: type) -> None:
    """Token ids are copied by the server before it checks them."""
    ids: Array = np.random.default_rng(0).integers(0, 200, (400, 256)).astype(dtype)
    with Client(server.address, shared_memory=True) as client:
        np.testing.assert_array_equal(client.embed(IDS, ids)[:, 0], ids.sum(1, dtype=np.int64))


def test_an_error_of_one_call_is_its_own(server: RunningServer) -> None:
    """The place of a refused item is free again."""
    with Client(server.address, shared_memory=True) as client:
        for _ in range(20):
            with pytest.raises(InvalidInputError, match=r"takes \[rows, 4096\]"):
                client.embed(NAME, np.ones((1024, 4097), np.float32))
        np.testing.assert_array_equal(client.embed(NAME, rows(1024)), rows(1024)[:, : WIDTH // 2] * 3)


def test_many_threads_get_their_own_rows(server: RunningServer) -> None:
    """More is in flight than the segment holds."""
    with Client(server.address, shared_memory=True) as client, ThreadPoolExecutor(16) as pool:
        inputs = [rows(1 + seed * 7 % 300, seed) for seed in range(64)]
        for x, features in zip(inputs, pool.map(lambda x: client.embed(NAME, x), inputs), strict=True):
            np.testing.assert_array_equal(features, x[:, : WIDTH // 2] * 3)


async def test_an_async_client_shares_memory(server: RunningServer) -> None:
    """It does so by default, and raises an error if it must and cannot."""
    async with AsyncClient(server.address, shared_memory=True) as client:
        np.testing.assert_array_equal(await client.embed(NAME, rows(64)), rows(64)[:, : WIDTH // 2] * 3)


@pytest.mark.parametrize(("option", "items"), [(None, 1), (True, 1), (False, 0)])
def test_stall_says_which_route_was_used(server: RunningServer, option: bool | None, items: int) -> None:
    """`shared_items` counts the items in shared memory; the bytes are counted on both routes."""
    backbone = RemoteBackbone(server.url(NAME), shared_memory=option)
    before = backbone.stall
    backbone(torch.ones(64, WIDTH))
    step = backbone.stall - before
    backbone.open().close()
    assert (step.items, step.shared_items) == (1, items)
    assert (step.sent_bytes >= 64 * ROW_BYTES, step.received_bytes >= 32 * ROW_BYTES) == (True, True)


def test_small_calls_travel_in_messages(server: RunningServer) -> None:
    """A place in shared memory would cost more than their bytes."""
    backbone = RemoteBackbone(server.url(NAME), shared_memory=True)
    before = backbone.stall
    backbone(torch.ones(1, WIDTH))
    backbone.open().close()
    assert (backbone.stall - before).shared_items == 0


def test_without_shared_memory_the_network_is_used(without: RunningServer) -> None:
    """Silently, unless the caller insists."""
    with Client(without.address) as client:
        np.testing.assert_array_equal(client.embed(NAME, rows(64)), rows(64)[:, : WIDTH // 2] * 3)


def test_insisting_on_shared_memory_that_is_not_there(without: RunningServer) -> None:
    """The error says why, and what to do."""
    backbone = RemoteBackbone(without.url(NAME), shared_memory=True)
    with pytest.raises(UnsupportedError, match="the server offers none; pass shared_memory=None"):
        backbone(torch.ones(64, WIDTH))


def test_clients_leave_neither_memory_nor_descriptors(server: RunningServer) -> None:
    """After a thousand of them, there are as many descriptors as after the first, and as much memory as after ten."""
    embed_as_clients(server, 10)
    before, resident = len(os.listdir("/proc/self/fd")), resident_bytes()
    embed_as_clients(server, 1000)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert resident_bytes() - resident < 24 << 20  # one segment; a thousand have 24,000 MiB


def embed_as_clients(server: RunningServer, count: int) -> None:
    for _ in range(count):
        embed_once(server)
    server.run(until(lambda: shared_bytes(server) == 0))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def embed_once(server: RunningServer) -> None:
    with Client(server.address, shared_memory=True) as client:
        client.embed(NAME, rows(16))


async def until(reached: Callable[[], bool]) -> None:
    """Return once the server has released the memory of ended streams."""
    while not reached():
        await asyncio.sleep(0.01)
