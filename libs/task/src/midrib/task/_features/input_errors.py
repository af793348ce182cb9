"""Inputs that do not fit their backbone, as sentences in place of torch's errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midrib.backbones import InputKindError
from midrib.registry import InputSpec, TensorInput, in_words

_LONE_ROW = "more than 1 value per channel"  # torch's words
_TORCH_ERRORS = (RuntimeError, IndexError, ValueError)


@contextmanager
def explained(spec: InputSpec | None, inputs: Any) -> Iterator[None]:
    """Raise ValueError in place of an error of torch for inputs, [rows, ...], of another shape or kind of numbers.

    Inputs are not checked in advance, because many networks take more shapes than they declare.
    """
    try:
        yield
    except _TORCH_ERRORS as error:
        is_ours = type(error) not in _TORCH_ERRORS
        if is_ours or spec is None or not isinstance(inputs, Tensor):
            raise
        if _LONE_ROW in str(error):
            raise ValueError(
                f"got a batch of 1 row, {list(inputs.shape)}, and batch norms need at least 2 to train: choose another "
                "batch_size, or drop_last=True for the loader"
            ) from error
        if _fits(tuple(inputs.shape[1:]), spec):
            if spec.tensor.dtype.startswith("float") == inputs.is_floating_point():
                raise
            raise ValueError(
                f"got inputs of {str(inputs.dtype).removeprefix('torch.')}, expected {spec.tensor.dtype}: convert them"
            ) from error
        sizes = ", ".join("any" if size is None else str(size) for size in spec.tensor.shape)
        raise ValueError(
            f"got inputs of shape {list(inputs.shape)}, expected rows of {in_words(spec)}, that is [rows, {sizes}]: "
            "reshape them, or use a backbone for this shape"
        ) from error


def _fits(row: tuple[int, ...], spec: InputSpec) -> bool:
    expected = spec.tensor.shape
    return len(row) == len(expected) and all(size in (None, actual) for size, actual in zip(expected, row, strict=True))


def as_numbers(items: Any, spec: InputSpec | None) -> Tensor:
    """Return rows of numbers as a tensor, [rows, ...].

    Arrays of any layout and byte order are taken, as through a server; bfloat16 and long doubles become float32 and
    float64.
    Raises InputKindError for texts, times and other objects, ValueError for rows of several shapes and masked values.
    """
    takes = f"this backbone takes {in_words(spec)}" if spec is not None else "this backbone declares no input"
    try:
        rows = np.asarray(items)
    except ValueError as error:
        raise ValueError(f"got rows of several shapes, and {takes}: give every row the same shape") from error
    if masked := _masked_values(items):
        raise ValueError(f"got {masked} masked values: fill them, or leave out their rows")
    rows = _native(rows)
    if rows.dtype.kind in "OUSVMm":
        first = items[0] if isinstance(items, Sequence) and len(items) else rows.dtype
        raise InputKindError(
            f"got {first!r:.60} of type {type(first).__name__}, and {takes}: pass arrays of numbers{_remedy(spec)}"
        )
    return torch.as_tensor(_without_negative_strides(rows))


def _masked_values(items: Any) -> int:
    """Return the number of values that masks hide, in an array [rows, ...] or in a sequence of rows."""
    rows = items if isinstance(items, Sequence) and not isinstance(items, str) else [items]
    return sum(int(np.sum(np.ma.getmaskarray(row))) for row in rows if isinstance(row, np.ma.MaskedArray))


def _without_negative_strides(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array [rows, ...] in the order of its elements, which torch needs.

    numpy also calls a reversed axis of length 1 contiguous.
    """
    rows = np.asarray(rows, order="C")
    return rows.copy() if any(stride < 0 for stride in rows.strides) else rows


def _native(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array [rows, ...] in a type that torch takes; unchanged if torch has no such type."""
    if rows.dtype.name == "bfloat16":
        return rows.astype(np.float32)
    if rows.dtype == np.longdouble:
        return rows.astype(np.float64)
    if rows.dtype == np.clongdouble:
        return rows.astype(np.complex128)
    return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def _remedy(spec: InputSpec | None) -> str:
    return ", or use a backbone for texts, images or audio" if isinstance(spec, TensorInput) else ""
