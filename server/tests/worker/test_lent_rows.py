"""Rows of a large batch stay in shared memory until they have been sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from midrib.server._worker.shared_buffer import SharedBuffer, lend, new_shared_buffer
from midrib.wire import Array

ReplicaOf = Callable[..., Any]
ROWS = 20_000


def rows_of(value: int) -> Array:
    return np.full((ROWS, 2), value, np.float32)


@pytest.fixture()
def buffer() -> SharedBuffer:
    """A page of shared memory."""
    new = new_shared_buffer()
    new.grow(4096)
    return new


def test_rows_that_are_kept_are_not_overwritten(replica_of: ReplicaOf) -> None:
    """More batches than there are buffers: the rows of each one stay as they were, and none has to wait."""
    replica = replica_of("doubling")
    kept = [replica.run((rows_of(value),))[0] for value in range(8)]
    assert [np.unique(rows).tolist() for rows in kept] == [[2.0 * value] for value in range(8)]


def test_batches_that_are_submitted_together_keep_their_rows(replica_of: ReplicaOf) -> None:
    """Kept rows take no buffer that the worker needs for its next batches."""
    replica = replica_of("doubling")
    kept = replica.run_batches([[(rows_of(2 * number),), (rows_of(2 * number + 1),)] for number in range(6)])
    values = [np.unique(rows).tolist() for results in kept for rows in results]
    assert values == [[2.0 * value] for value in range(12)]


def test_a_lent_view_is_released_with_its_last_view(buffer: SharedBuffer) -> None:
    """An item's rows are a view of its batch's rows: the buffer is free once all of them are gone."""
    released: list[int] = []
    lent = lend(buffer.view(64, "float32", (10, 2)), lambda: released.append(1))
    item = lent[2:4]
    del lent
    assert released == []
    del item
    assert released == [1]
