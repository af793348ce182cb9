"""Buckets: the rows that may share a batch, and the cost of padding them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from midrib.registry import AudioInput, InputSpec, TextInput

# Texts whose token counts round up to the same multiple share a batch: little padding, few shapes.
_TOKEN_STEP = 16
_OPEN_LENGTH = 16


def padded_shape(spec: InputSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the largest shape of one row in a batch of its bucket: that of the bucket's longest text."""
    if isinstance(spec, TextInput):
        return (min(spec.max_tokens, -(-shape[0] // _TOKEN_STEP) * _TOKEN_STEP),)
    return shape


def usual_shapes(spec: InputSpec) -> Iterator[tuple[int, ...]]:
    """Yield the row shapes of the usual buckets: all of a text, and one of any other input with an open length."""
    if isinstance(spec, TextInput):
        lengths = range(_TOKEN_STEP, spec.max_tokens, _TOKEN_STEP)
        yield from ((length,) for length in (*lengths, spec.max_tokens))
        return
    open_length = spec.rate if isinstance(spec, AudioInput) else _OPEN_LENGTH
    yield tuple(open_length if size is None else size for size in spec.tensor.shape)


def elements(shape: tuple[int, ...]) -> int:
    """Return the number of elements of one row."""
    return math.prod(shape)
