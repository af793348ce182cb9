"""The memory of a worker between its passes, and of the server for it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

ROW = (np.full((1, 2), 666.0, np.float32),)


def test_a_worker_keeps_freed_memory_for_its_next_pass(replica_of: Callable[..., Any]) -> None:
    """Otherwise the kernel clears the pages of every large tensor again: a network may take twice as long."""
    replica = replica_of("allocating")
    cleared = [float(rows[0, 0]) for _ in range(5) for rows in replica.run(ROW)]
    assert min(cleared) < 1000  # a small block may lie where the large one was, once


@pytest.fixture()
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_collector")
def test_nothing_keeps_the_connection_of_a_worker_that_has_died(
    replica_of: Callable[..., Any], kill: Callable[[int], None]
) -> None:
    """No cycle of references either: the server's collector runs seldom."""
    replica = replica_of("allocating")
    dead = weakref.ref(replica.replica._connection)
    kill(replica.pid)
    replica.wait_for(lambda: replica.restarts == 1 and replica.replica.running)
    assert dead() is None
