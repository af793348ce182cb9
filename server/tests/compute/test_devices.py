"""A CPU computes a batch in pieces, and nobody can tell from the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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


def in_pieces(
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


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 10))
def test_the_rows_are_those_of_a_whole_batch(items: list[int], piece: int) -> None:
    """Whatever the items, and whether they end where pieces do."""
    module, batch = Passes(), [(rows_of(count),) for count in items]
    whole, got = in_pieces(module, None)(batch), in_pieces(module, 2 * piece)(batch)
    assert [rows.shape for rows in got] == [(count, WIDTH) for count in items]
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(whole), atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 10))
def test_pieces_are_equal_to_a_row_and_no_larger_than_asked(rows: int, piece: int) -> None:
    """No last one of a single row, which would cost nearly as much as a full one; and no more of them than needed."""
    module = Passes()
    in_pieces(module, 2 * piece)([(rows_of(rows),)])
    assert sum(module.rows) == rows
    assert len(module.rows) == -(-rows // piece)
    assert max(module.rows) - min(module.rows) <= 1


@pytest.mark.parametrize(
    ("tokens", "passes"),
    [
        pytest.param(4, [6], id="short"),
        pytest.param(8, [3, 3], id="longer"),
        pytest.param(30, [1] * 6, id="one fills a piece"),
    ],
)
def test_a_piece_holds_the_more_texts_the_shorter_they_are(tokens: int, passes: list[int]) -> None:
    """It is of elements: 24 are six texts of four tokens, or three of eight."""
    module = Passes()
    in_pieces(module, 24, spec=TextInput(32))([(np.ones((6, tokens), np.int64),)])
    assert module.rows == passes


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5))
def test_gradients_are_those_of_a_whole_batch(rows: int, piece: int) -> None:
    """They are computed in the same pieces."""
    module, float64 = Passes(), ComputeConfig(dtype="float64")
    batch = [(rows_of(rows), np.ones((rows, WIDTH), np.float32))]
    (whole,) = in_pieces(module, None, config=float64)(batch)
    (got,) = in_pieces(module, 2 * piece, config=float64)(batch)
    np.testing.assert_allclose(got, whole, rtol=1e-12)


def test_pieces_compute_in_the_compute_type() -> None:
    """Each is converted by itself, and the rows have its type."""
    bfloat16 = ComputeConfig(dtype="bfloat16")
    (whole,) = in_pieces(Passes(), None, config=bfloat16)([(rows_of(5),)])
    (got,) = in_pieces(Passes(), 4, config=bfloat16)([(rows_of(5),)])
    assert got.dtype == whole.dtype
    np.testing.assert_allclose(got.astype(np.float32), whole.astype(np.float32), atol=1e-2)


def test_rows_in_pieces_keep_no_hold_of_the_buffer() -> None:
    """A module may hand its input back, and the next batch must not overwrite rows that were already answered."""
    forward = in_pieces(nn.Flatten(), 2)
    (first,) = forward([(rows_of(3),)])
    before = first.copy()
    forward([(rows_of(4),)])
    np.testing.assert_array_equal(first, before)


def test_an_empty_batch_is_no_piece() -> None:
    """It still has a width."""
    (rows,) = in_pieces(Passes(), 4)([(rows_of(0),)])
    assert rows.shape == (0, WIDTH)
