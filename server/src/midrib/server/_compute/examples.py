"""Example rows of an input spec, for warming up and for measuring.

They have the lengths of usual requests. Those of `midrib.backbones` are short, because they only check the contract.
"""

from __future__ import annotations

import numpy as np

from midrib.registry import ImageInput, InputSpec, TextInput
from midrib.server._engine.buckets import usual_shapes
from midrib.wire import Array

_EXAMPLE_TOKENS = 32


def example_rows(spec: InputSpec, rows: int, shape: tuple[int, ...] | None = None) -> Array:
    """Return rows of an input, [rows, *shape], the same values every time: float32, or ids from 1 to 4.

    shape: the shape of one row; by default a usual one.
    """
    source = np.random.default_rng(0)
    if shape is None:
        shape = (min(_EXAMPLE_TOKENS, spec.max_tokens),) if isinstance(spec, TextInput) else next(usual_shapes(spec))
    if takes_integers(spec):
        return source.integers(1, 5, (rows, *shape))  # every vocabulary has these
    return source.standard_normal((rows, *shape), dtype=np.float32)


def example_pixels(spec: ImageInput) -> Array:
    """Return pixels of one image, [1, 3, height, width], uint8; the same values every time."""
    levels = np.random.default_rng(0).integers(0, 256, (1, 3, spec.size, spec.width or spec.size))
    return levels.astype(np.uint8)


def takes_integers(spec: InputSpec) -> bool:
    """Return whether the rows of an input are integers, such as token ids."""
    return spec.tensor.dtype.startswith(("int", "uint", "bool"))
