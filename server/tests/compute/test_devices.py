"""A CPU computes a batch in micro-batches, and the rows are those of the expected batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from midrib.registry import InputSpec, TensorInput, TextInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward

WIDTH = 3
PAIR = TensorInput((2,))


class Passes(nn.Module):
    """Notes the rows of every pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, WIDTH))
        self.rows: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.rows.append(len(batch))
        features: Tensor = self.layers(batch[:, :2].to(next(self.parameters()).dtype))
        return features


def in_micro_batches(
    module: nn.Module,
    elements: int | None,
    *,
    spec: InputSpec = PAIR,
    config: ComputeConfig = ComputeConfig(),  # noqa: B008
) -> Forward:
    forward = Forward(module, spec, config)
    assert isinstance(forward.device, CpuDevice)
    forward.device.micro_batch_elements = elements
    return forward


def rows_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 2), np.float32)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 10))
def test_the_rows_are_those_of_a_whole_batch(items: list[int], micro_batch: int) -> None:
    """An item may be divided between two micro-batches."""
    module, batch = Passes(), [(rows_of(count),) for count in items]
    expected, rows = in_micro_batches(module, None)(batch), in_micro_batches(module, 2 * micro_batch)(batch)
    assert [rows.shape for rows in rows] == [(count, WIDTH) for count in items]
    np.testing.assert_allclose(np.concatenate(rows), np.concatenate(expected), atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 10))
def test_micro_batches_differ_by_one_row_at_most_and_have_the_size_that_is_set(rows: int, micro_batch: int) -> None:
    """A last one of a single row would cost nearly as much as a full one."""
    module = Passes()
    in_micro_batches(module, 2 * micro_batch)([(rows_of(rows),)])
    assert sum(module.rows) == rows
    assert len(module.rows) == -(-rows // micro_batch)
    assert max(module.rows) - min(module.rows) <= 1


@pytest.mark.parametrize(
    ("tokens", "passes"),
    [
        pytest.param(4, [6], id="short"),
        pytest.param(8, [3, 3], id="longer"),
        pytest.param(30, [1] * 6, id="one fills a micro-batch"),
    ],
)
def test_a_micro_batch_holds_more_texts_if_they_are_shorter(tokens: int, passes: list[int]) -> None:
    """Its size is in elements: 24 are six texts of four tokens, or three of eight."""
    module = Passes()
    in_micro_batches(module, 24, spec=TextInput(32))([(np.ones((6, tokens), np.int64),)])
    assert module.rows == passes


@given(st.integers(1, 12), st.integers(1, 5))
def test_gradients_are_those_of_a_whole_batch(rows: int, micro_batch: int) -> None:
    """They are computed in the same micro-batches."""
    module, float64 = Passes(), ComputeConfig(dtype="float64")
    batch = [(rows_of(rows), np.ones((rows, WIDTH), np.float32))]
    (expected,) = in_micro_batches(module, None, config=float64)(batch)
    (gradient,) = in_micro_batches(module, 2 * micro_batch, config=float64)(batch)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_micro_batches_compute_in_the_compute_dtype() -> None:
    """Each is converted separately, and the rows have that dtype."""
    bfloat16 = ComputeConfig(dtype="bfloat16")
    (expected,) = in_micro_batches(Passes(), None, config=bfloat16)([(rows_of(5),)])
    (rows,) = in_micro_batches(Passes(), 4, config=bfloat16)([(rows_of(5),)])
    assert rows.dtype == expected.dtype
    np.testing.assert_allclose(rows.astype(np.float32), expected.astype(np.float32), atol=1e-2)


def test_rows_of_micro_batches_do_not_lie_in_the_staging_buffer() -> None:
    """A module may return its input, and the next batch must not overwrite rows that were already answered."""
    forward = in_micro_batches(nn.Flatten(), 2)
    (first,) = forward([(rows_of(3),)])
    before = first.copy()
    forward([(rows_of(4),)])
    np.testing.assert_array_equal(first, before)


def test_an_empty_batch_is_computed_whole() -> None:
    """Its result has the width of the others."""
    (rows,) = in_micro_batches(Passes(), 4)([(rows_of(0),)])
    assert rows.shape == (0, WIDTH)
