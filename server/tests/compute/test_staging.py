"""Staging buffers: filled, padded, used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from midrib.server._compute.staging import BufferPool, StagingBuffer


def buffer() -> StagingBuffer:
    return StagingBuffer([torch.float32], pinned=False)


def test_a_buffer_is_used_again() -> None:
    """The second batch lies in the memory of the first staging."""
    staging = buffer()
    first = staging.fill(0, [np.ones((4, 2), np.float32)])
    second = staging.fill(0, [np.zeros((3, 2), np.float32)])
    assert first.data_ptr() == second.data_ptr()
    assert second.tolist() == [[0, 0]] * 3


def test_rows_of_unequal_length_are_padded_with_zeros() -> None:
    """The padding is 0 even if the buffer held a larger batch before."""
    staging = buffer()
    staging.fill(0, [np.full((2, 3), 7.0)])
    assert staging.fill(0, [np.ones((1, 1)), np.ones((1, 3))]).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_pixels_stay_bytes_in_a_buffer_of_floats() -> None:
    """A quarter of the bytes; rows of floats before and after them lie in memory that they do not touch."""
    staging = buffer()
    floats = staging.fill(0, [np.ones((1, 2), np.float32)])
    pixels = staging.fill(0, [np.full((1, 2), 255, np.uint8), np.full((2, 2), 7, np.uint8)])
    assert (pixels.dtype, pixels.tolist()) == (torch.uint8, [[255, 255], [7, 7], [7, 7]])
    assert floats.tolist() == [[1, 1]]


def test_ids_of_uint8_are_widened() -> None:
    """Only pixels are normalised by the device."""
    staging = StagingBuffer([torch.int64], pinned=False)
    assert staging.fill(0, [np.array([[255]], np.uint8), np.array([[300]])]).tolist() == [[255], [300]]


@pytest.mark.parametrize("first", [np.uint8, np.float32], ids=["pixels first", "floats first"])
def test_pixels_are_never_converted_to_floats(first: type) -> None:
    """A conversion would leave out the normalisation."""
    with pytest.raises(ValueError, match=r"has arrays of float32, uint8: put pixels and floats into separate batches"):
        buffer().fill(0, [np.ones((1, 2), first), np.ones((1, 2), np.uint8), np.ones((1, 2), np.float32)])


def test_a_larger_batch_gets_a_larger_buffer() -> None:
    """Batches after it lie there too, also those of a shape from before."""
    staging = buffer()
    staging.fill(0, [np.ones((1, 2), np.float32)])
    larger = staging.fill(0, [np.ones((9, 2), np.float32)])
    again = staging.fill(0, [np.full((1, 2), 5, np.float32)])
    assert (again.tolist(), again.data_ptr()) == ([[5, 5]], larger.data_ptr())


def test_any_number_of_shapes_can_be_staged() -> None:
    """The number of views that a buffer keeps is limited."""
    staging = buffer()
    sums = [int(staging.fill(0, [np.ones((1, size), np.float32)]).sum()) for size in [*range(1, 200), 3, 150]]
    assert sums == [*range(1, 200), 3, 150]


def test_a_module_that_changes_its_input_does_not_change_the_buffer() -> None:
    """It may transpose it, or give it other memory: the next batch of the same shape is staged as before."""
    staging = buffer()
    staging.fill(0, [np.ones((2, 2), np.float32)]).t_()
    staging.fill(0, [np.ones((2, 2), np.float32)]).data = torch.zeros(2, 2)
    assert staging.fill(0, [np.array([[1, 2], [3, 4]], np.float32)]).tolist() == [[1, 2], [3, 4]]


def test_a_module_cannot_resize_the_buffer() -> None:
    """The memory that its views show would be freed."""
    with pytest.raises(RuntimeError, match="not resizable"):
        buffer().fill(0, [np.ones((2, 2), np.float32)]).resize_(1000, 2)


def test_a_batch_waits_for_a_free_buffer() -> None:
    """Two batches at a time have buffers; a third waits until staging is given back."""
    pool = BufferPool([buffer(), buffer()])
    first, second = pool.take(), pool.take()
    third: list[StagingBuffer] = []
    taking = threading.Thread(target=lambda: third.append(pool.take()))
    taking.start()
    pool.give_back(first)
    taking.join(20)
    assert first is not second
    assert third == [first]
