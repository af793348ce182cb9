"""The memory that a server and its worker share: it grows to the largest batch, and is never made smaller."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from midrib.server._worker.shared_buffer import new_shared_buffer

SIZES = st.integers(min_value=1, max_value=1 << 20)


@given(batches=st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=20))
def test_it_holds_each_batch_and_never_shrinks(batches: list[tuple[int, int]]) -> None:
    """A batch makes room for its input and its rows, and then looks at its input only."""
    buffer = new_shared_buffer()
    for input_bytes, rows_bytes in batches:
        before = os.fstat(buffer.descriptor).st_size
        buffer.grow(input_bytes + rows_bytes)
        assert os.fstat(buffer.descriptor).st_size >= max(before, input_bytes + rows_bytes)
        assert buffer.view(0, "uint8", (input_bytes,)).nbytes == input_bytes


def test_growing_keeps_the_content() -> None:
    """A view that was made before shows it too."""
    buffer = new_shared_buffer()
    buffer.grow(100)
    early = buffer.view(0, "uint8", (100,))
    early[:] = np.arange(100)
    buffer.grow(1 << 20)
    assert np.array_equal(buffer.view(0, "uint8", (1 << 20,))[:100], early)


def test_batches_that_grow_need_few_descriptors() -> None:
    """Each mapping has one, and the views of earlier batches keep it."""
    buffer = new_shared_buffer()
    before = len(list(Path("/proc/self/fd").iterdir()))
    views = []
    for size in range(1, 1 << 20, 4096):
        buffer.grow(size)
        views.append(buffer.view(0, "uint8", (size,)))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 10
