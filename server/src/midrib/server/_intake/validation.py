"""Checks of an input's dtype and shape, its bucket and its cost; each layout is checked once and then remembered."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from midrib.registry import ImageInput, InputSpec, TextInput
from midrib.server._engine.buckets import elements, padded_shape
from midrib.wire import InvalidInputError, LimitExceededError, is_floating

# Layouts to remember: a client that sends new shapes all the time must not fill the memory.
_REMEMBERED = 1024


@dataclass(frozen=True)
class ItemLimits:
    """The inputs that one backbone takes. name: the backbone's, for errors.  max_rows, max_elements: of one item."""

    name: str
    spec: InputSpec
    max_rows: int
    max_elements: int

    def check_size(self, rows: int, elements: int) -> None:
        """Raise LimitExceededError for an item with too many rows or elements."""
        if rows > self.max_rows or elements > self.max_elements:
            raise LimitExceededError(
                f"one item has {rows} rows and {elements} elements, at most {self.max_rows} rows and "
                f"{self.max_elements} elements are taken: split it",
                field="input",
            )


class InputValidator:
    """Checks the layouts of the inputs of one backbone.

    bucket: returns the bucket of a shape [rows, ...] and a dtype, and its cost in elements, padding included.
    check: raises InvalidInputError for a dtype and a shape that the module does not take, LimitExceededError for one
    with too many rows or elements.
    """

    def __init__(self, limits: ItemLimits) -> None:
        # The caches are of functions: a cache of methods would refer to this object, and keep a backbone's memory.
        self.bucket = lru_cache(_REMEMBERED)(partial(_bucket, limits.spec))
        self.check = lru_cache(_REMEMBERED)(partial(_check, limits))


def _bucket(spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Hashable, int]:
    padded = padded_shape(spec, shape[1:])
    return (padded, takes_pixels(spec, dtype)), shape[0] * elements(padded)


def takes_pixels(spec: InputSpec, dtype: np.dtype[Any]) -> bool:
    """Return whether arrays of a dtype are pixels, which the backbone normalises on its device."""
    return isinstance(spec, ImageInput) and dtype == np.uint8


def _check(limits: ItemLimits, dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> None:
    _check_dtype(limits.name, limits.spec, dtype, field)
    _check_shape(limits.name, limits.spec, shape, field)
    limits.check_size(shape[0], _bucket(limits.spec, shape, dtype)[1])


def _check_dtype(name: str, spec: InputSpec, dtype: np.dtype[Any], field: str) -> None:
    """Raise InvalidInputError for a dtype that the backbone does not take."""
    expected = spec.tensor.dtype
    right = dtype.kind in "iu" if expected.startswith(("int", "uint")) else is_floating(dtype)
    if not right and not takes_pixels(spec, dtype):
        pixels = ", or uint8 (pixels of 0..255, which it normalises)" if isinstance(spec, ImageInput) else ""
        raise InvalidInputError(
            f"{field} is {dtype.name}, backbone {name!r} takes {expected}{pixels}: convert it",
            field=f"{field}.dtype",
        )


def _check_shape(name: str, spec: InputSpec, shape: tuple[int, ...], field: str) -> None:
    """Raise InvalidInputError for a shape that the backbone does not take."""
    expected = spec.tensor.shape
    fits = len(shape) == len(expected) + 1 and all(
        size in (None, actual) for size, actual in zip(expected, shape[1:], strict=True)
    )
    if not fits:
        takes = ", ".join("any" if size is None else str(size) for size in expected)
        advice = ": send pictures of any size as images, not as a tensor" if isinstance(spec, ImageInput) else ""
        raise InvalidInputError(
            f"{field} has shape {list(shape)}, backbone {name!r} takes [rows, {takes}]{advice}",
            field=f"{field}.shape",
        )
    if isinstance(spec, TextInput) and shape[1] > spec.max_tokens:
        raise InvalidInputError(
            f"{field} has {shape[1]} tokens a row, at most {spec.max_tokens} are taken: truncate it",
            field=f"{field}.shape",
        )
