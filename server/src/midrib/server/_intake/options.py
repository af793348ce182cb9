"""The options of an embedding: checked against a backbone, and applied to rows."""

from __future__ import annotations

import numpy as np

from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, InvalidInputError, dtype_from_code

_OUTPUT_CODES = (
    tensor_pb2.DATA_TYPE_FLOAT32,
    tensor_pb2.DATA_TYPE_FLOAT16,
    tensor_pb2.DATA_TYPE_BFLOAT16,
    tensor_pb2.DATA_TYPE_FLOAT64,
    tensor_pb2.DATA_TYPE_INT8,
)


def check_options(options: embedding_pb2.Options, num_features: int) -> None:
    """Raise InvalidInputError for options that no embedding of this width can satisfy."""
    if options.HasField("dtype") and options.dtype not in _OUTPUT_CODES:
        raise InvalidInputError(
            f"options.dtype is {options.dtype}, expected the code of float32, float16, bfloat16, float64, or "
            "int8 with a scale a row",
            field="options.dtype",
        )
    if options.HasField("dimensions") and not 1 <= options.dimensions <= num_features:
        raise InvalidInputError(
            f"options.dimensions is {options.dimensions}, this backbone has 1..{num_features}",
            field="options.dimensions",
        )


def apply_options(rows: Array, options: embedding_pb2.Options) -> Array:
    """Return rows, [rows, num_features], under the caller's options: truncated, then normalised, then converted.

    Rows for int8 stay floating until they are written.
    """
    if options.HasField("dimensions"):
        rows = np.ascontiguousarray(rows[:, : options.dimensions])
    if options.normalize:
        wide = rows.astype(np.promote_types(np.float32, rows.dtype))
        norm = np.linalg.norm(wide, axis=-1, keepdims=True)
        rows = (wide / np.maximum(norm, np.finfo(wide.dtype).tiny)).astype(rows.dtype)
    if options.HasField("dtype") and options.dtype != tensor_pb2.DATA_TYPE_INT8:
        with np.errstate(over="ignore"):  # infinite in a narrower type, which is not worth a warning
            rows = rows.astype(dtype_from_code(options.dtype), copy=False)
    return rows
