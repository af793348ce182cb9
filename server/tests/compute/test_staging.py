"""Host buffers: filled, padded, used again."""

from __future__ import annotations

import threading

import numpy as np
import torch

from midrib.server._compute.staging import BufferPool, StagingBuffer


def buffer() -> StagingBuffer:
    return StagingBuffer([torch.float32], pinned=False)


def test_a_buffer_is_used_again() -> None:
    """The second batch lies where the first one lay."""
    one = buffer()
    first = one.fill(0, [np.ones((4, 2), np.float32)])
    second = one.fill(0, [np.zeros((3, 2), np.float32)])
    assert first.data_ptr() == second.data_ptr()
    assert second.tolist() == [[0, 0]] * 3


def test_unequal_rows_are_padded_with_zeros_whatever_lay_there() -> None:
    """Padding is part of the input."""
    one = buffer()
    one.fill(0, [np.full((2, 3), 7.0)])
    assert one.fill(0, [np.ones((1, 1)), np.ones((1, 3))]).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_larger_batch_gets_a_larger_buffer() -> None:
    """And whatever shape comes after it lies there too, those that were seen before included."""
    one = buffer()
    one.fill(0, [np.ones((1, 2), np.float32)])
    larger = one.fill(0, [np.ones((9, 2), np.float32)])
    again = one.fill(0, [np.full((1, 2), 5, np.float32)])
    assert (again.tolist(), again.data_ptr()) == ([[5, 5]], larger.data_ptr())


def test_any_number_of_shapes_can_be_staged() -> None:
    """What is remembered of them is bounded, and right."""
    one = buffer()
    sums = [int(one.fill(0, [np.ones((1, size), np.float32)]).sum()) for size in [*range(1, 200), 3, 150]]
    assert sums == [*range(1, 200), 3, 150]


def test_a_slot_knows_its_own_memory() -> None:
    """What lies there is overwritten by the next batch."""
    one = buffer()
    filled = one.fill(0, [np.ones((4, 2), np.float32)])
    assert (one.holds(filled[2:]), one.holds(filled.clone())) == (True, False)


def test_whoever_finds_no_slot_waits_for_one() -> None:
    """Two batches at a time have buffers; a third has to wait until one is given back."""
    pool = BufferPool([buffer(), buffer()])
    first, second = pool.take(), pool.take()
    third: list[StagingBuffer] = []
    taking = threading.Thread(target=lambda: third.append(pool.take()))
    taking.start()
    pool.give_back(first)
    taking.join(20)
    assert first is not second
    assert third == [first]
