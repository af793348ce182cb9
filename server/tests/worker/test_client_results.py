"""The features of an item in a client's memory: the worker writes them where the client wants them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server._compute.forward import Forward
from midrib.server._shared_memory.memory import client_memory
from midrib.server._shared_memory.segment import SealedSegment
from midrib.v1.embedding_pb2 import SharedItem, SharedTensor
from midrib.wire import Array

Run = Callable[[Array], Array]
SIZE = 2 << 20
SHAPE = (SIZE // 8, 2)
# A float64 for each feature: the worker of a backbone of any dtype writes to a place of this size.
RESULT_BYTES = 2 * SIZE


class Doubling(nn.Module):
    """Doubles its rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return 2 * rows


@pytest.fixture(params=["process", "thread"])
def run(request: pytest.FixtureRequest, misbehaving: Registry) -> Iterator[Run]:
    """Compute an item of two features a row, in a worker process or in a thread: its features are doubled."""
    if request.param == "thread":
        forward = Forward(Doubling(), TensorInput((2,)))
        yield lambda rows: forward([(rows,)])[0]
    else:
        replica: Any = request.getfixturevalue("replica_of")("doubling")
        yield lambda rows: replica.run((rows,))[0]


@pytest.fixture()
def segment() -> SealedSegment:
    """Memory for an item and its features."""
    return SealedSegment(SIZE + RESULT_BYTES)


def rows_with_result(segment: SealedSegment, *, result_offset: int = SIZE, result_bytes: int = RESULT_BYTES) -> Array:
    """Return the rows of an item, all 1, whose features are to be written to a place."""
    rows = segment.memory.view(0, "float32", SHAPE)
    rows[:] = 1
    tensor = SharedTensor(shape=SHAPE, offset=0)
    segment.expect_result(SharedItem(input=tensor, result_offset=result_offset, result_bytes=result_bytes))
    return rows


def test_features_are_written_into_the_clients_memory(run: Run, segment: SealedSegment) -> None:
    """They are not copied there afterwards."""
    features = run(rows_with_result(segment))
    assert np.unique(features).tolist() == [2]
    assert (client_memory(features), segment.memory.offset_of(features)) == (segment.memory, SIZE)


def test_features_that_do_not_fit_are_not_written_there(run: Run, segment: SealedSegment) -> None:
    """The bytes behind the place stay as they are."""
    features = run(rows_with_result(segment, result_bytes=SIZE - 1))
    assert (np.unique(features).tolist(), client_memory(features)) == ([2], None)
    assert not segment.memory.view(SIZE, "uint8", (RESULT_BYTES,)).any()


def test_features_of_an_item_that_was_answered_are_not_written_there(run: Run, segment: SealedSegment) -> None:
    """The client may use the place for something else."""
    rows = rows_with_result(segment)
    segment.forget_result(SharedItem(input=SharedTensor(shape=SHAPE)))
    assert client_memory(run(rows)) is None


def test_features_of_a_part_of_an_item_are_not_written_there(run: Run, segment: SealedSegment) -> None:
    """The place is for the features of all rows."""
    features = run(rows_with_result(segment)[: SHAPE[0] // 2])
    assert (len(features), client_memory(features)) == (SHAPE[0] // 2, None)


def test_features_over_the_input_change_that_item_only(run: Run, segment: SealedSegment) -> None:
    """A client that names such a place overwrites its own input; the next client gets its features."""
    features = run(rows_with_result(segment, result_offset=0))
    assert np.unique(features).tolist() == [2]
    other = SealedSegment(SIZE + RESULT_BYTES)
    assert np.unique(run(rows_with_result(other))).tolist() == [2]


def test_features_in_place_are_not_copied_again(segment: SealedSegment) -> None:
    """The response describes them where they lie; features that lie elsewhere are copied to the place."""
    item = SharedItem(result_offset=SIZE, result_bytes=RESULT_BYTES)
    in_place = segment.memory.view(SIZE, "float32", SHAPE)
    shared = segment.write(in_place, item)
    assert shared is not None
    assert (shared.offset, list(shared.shape)) == (SIZE, list(SHAPE))
    segment.write(np.full(SHAPE, 7, np.float32), item)
    assert np.unique(in_place).tolist() == [7]


def test_the_memory_is_unmapped_although_its_places_were_used(run: Run) -> None:
    """Neither a worker's places nor the answers keep the memory."""
    segment = SealedSegment(SIZE + RESULT_BYTES)
    unmapped: list[bool] = []
    run(rows_with_result(segment))
    weakref.finalize(segment.memory, unmapped.append, True)
    del segment
    assert unmapped == [True]
