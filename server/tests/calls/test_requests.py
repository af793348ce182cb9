"""The items of calls: which of them may share a batch."""

from __future__ import annotations

import os

import numpy as np
import pytest

from midrib.server._calls.requests import Caller, new_item
from midrib.server._engine.item import Item
from midrib.server._shared_memory.memory import ClientMemory
from midrib.server.testing import RunningServer
from midrib.wire import Array

SIZE = 1 << 20
LARGE = (SIZE // 8, 2)


def private(shape: tuple[int, int]) -> Array:
    return np.zeros(shape, np.float32)


def shared(shape: tuple[int, int]) -> Array:
    """Return rows in memory as a client's."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, SIZE)
    array: Array = np.ndarray(shape, np.float32, ClientMemory(descriptor, SIZE))
    os.close(descriptor)
    return array


@pytest.mark.parametrize(
    ("rows", "exclusive"),
    [
        pytest.param(shared(LARGE), True, id="large-in-shared-memory"),
        pytest.param(private(LARGE), False, id="large-in-a-message"),
        pytest.param(shared((16, 2)), False, id="small-in-shared-memory"),
        pytest.param(shared((2, SIZE // 8)), False, id="few-rows-in-shared-memory"),
    ],
)
def test_only_large_items_in_shared_memory_make_a_batch_alone(
    server: RunningServer, rows: Array, exclusive: bool
) -> None:
    """A CPU reads them where they lie; items of one bucket may share a batch."""

    async def items() -> list[Item]:
        loaded = server.server.catalogue.entry("gate").ready()
        return [new_item(loaded, (rows,), Caller("flow")) for _ in range(2)]

    first, second = server.run(items(), timeout=20)
    assert (first.bucket != second.bucket) is exclusive
