"""A lone item in a client's memory is computed there; every other batch is copied first."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import InputSpec, TensorInput, TextInput
from midrib.server._compute.forward import Forward
from midrib.server._shared_memory.memory import ClientMemory
from midrib.wire import Array

PAGE = 4096
PAIRS = TensorInput((2,))


class Double(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2


class DoubleItsInput(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.mul_(2)


class Count(nn.Module):
    """The number of tokens of a row that are not padding."""

    def forward(self, ids: Tensor) -> Tensor:
        return (ids != 0).sum(dim=1, keepdim=True).float()


def shared(rows: Array) -> Array:
    """Return rows in memory as a client's."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, PAGE)
    array: Array = np.ndarray(rows.shape, rows.dtype, ClientMemory(descriptor, PAGE), 64)
    os.close(descriptor)
    array[:] = rows
    return array


def ones(*shape: int, dtype: type = np.float32) -> Array:
    return np.ones(shape, dtype)


def run_changed(module: nn.Module, *items: Array, spec: InputSpec = PAIRS) -> list[object]:
    """Stage a batch, set all of its values to 0, and return the rows of its items."""
    staged = Forward(module, spec).stage([(rows,) for rows in items])
    for rows in items:
        rows[:] = 0
    return [rows.tolist() for rows in staged.launch().finish()]


def test_a_lone_item_is_read_where_it_lies() -> None:
    """The module reads the values that the client wrote after the batch was staged."""
    assert run_changed(Double(), shared(ones(2, 2))) == [[[0, 0], [0, 0]]]


def test_rows_of_an_item_are_read_where_they_lie() -> None:
    """An item that is larger than a batch is computed in parts."""
    assert run_changed(Double(), shared(ones(4, 2))[2:]) == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([ones(1, 2)], id="memory-of-the-server"),
        pytest.param([shared(ones(1, 2)), shared(ones(1, 2))], id="two-items"),
        pytest.param([shared(ones(1, 2, dtype=np.float64))], id="another-dtype"),
        pytest.param([shared(ones(1, 2, dtype=ml_dtypes.bfloat16))], id="a-narrower-dtype"),
        pytest.param([shared(ones(1, 4))[:, ::2]], id="with-gaps"),
    ],
)
def test_other_batches_are_copied(items: list[Array]) -> None:
    """A client's later writes do not reach them."""
    assert run_changed(Double(), *items) == [[[2, 2]]] * len(items)


def test_token_ids_are_copied() -> None:
    """A module looks them up: an id that changes after it was checked could lead outside the table."""
    assert run_changed(Count(), shared(ones(1, 3, dtype=np.int64)), spec=TextInput(8)) == [[[3]]]


def test_rows_of_a_module_that_returns_its_input_are_copied() -> None:
    """The client can write to the input at any time."""
    rows = shared(ones(1, 2))
    (features,) = Forward(nn.Flatten(), PAIRS)([(rows,)])
    rows[:] = 7
    assert features.tolist() == [[1, 1]]


def test_a_module_that_writes_to_its_input_gets_copies() -> None:
    """This applies from the second batch on, because a batch may be computed again after a worker has died."""
    forward = Forward(DoubleItsInput(), PAIRS)
    rows = shared(ones(1, 2))
    answers = [forward([(rows,)])[0].tolist() for _ in range(3)]
    assert answers == [[[2, 2]], [[4, 4]], [[4, 4]]]
