"""From an Input message to the arrays of an item, and from an item's rows to a Tensor message."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from midrib.backbones import Backbone, MediaError
from midrib.registry import TextInput
from midrib.server._buckets import elements, padded_shape
from midrib.server._media import MediaPool, media_kind, media_of, prepared_elements
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import (
    Array,
    InputKindError,
    InvalidInputError,
    LimitExceededError,
    decode_tensor,
    dtype_from_code,
    encode_int8_rows,
    encode_tensor,
)

_OUTPUT_CODES = (
    tensor_pb2.DATA_TYPE_FLOAT32,
    tensor_pb2.DATA_TYPE_FLOAT16,
    tensor_pb2.DATA_TYPE_BFLOAT16,
    tensor_pb2.DATA_TYPE_FLOAT64,
    tensor_pb2.DATA_TYPE_INT8,
)


@dataclass(frozen=True)
class Intake:
    """What one backbone accepts.

    max_rows, max_elements: of one item.
    last_id: the largest token id that the module looks up; None where that is not known.
    pool: decodes media, beside the event loop.
    finite: whether NaN and infinite values are refused.
    """

    backbone: Backbone
    max_rows: int
    max_elements: int
    last_id: int | None
    pool: MediaPool
    finite: bool = False

    async def read(self, message: embedding_pb2.Input) -> Array:
        """The rows of an input, as the backbone's module takes them.

        Raises InputKindError for media that this backbone does not take, InvalidInputError for a broken or
        ill-shaped input, LimitExceededError for one that is too large.
        """
        kind = message.WhichOneof("kind")
        if kind == "tensor":
            return self.tensor(message.tensor)
        if kind is None:
            raise InvalidInputError("the input is empty: set one of tensor, images, texts, audio", field="input")
        takes = media_kind(self.backbone.input)
        if kind != takes:
            accepted = f"{takes} or a tensor" if takes else "a tensor"
            raise InputKindError(f"backbone {self.backbone.name!r} got {kind}, it takes {accepted}")
        self._check_size(len(media_of(message)), prepared_elements(self.backbone.input, message))
        try:
            rows = await self.pool.prepare(self.backbone, message)
        except MediaError as error:
            raise InvalidInputError(str(error), field=f"input.{kind}[{error.index}]") from error
        return self._within_limits(rows)

    def size(self, message: embedding_pb2.Input) -> int:
        """The bytes that an input holds while it is in flight: what was sent, and what its media become."""
        sent: int = message.ByteSize()
        if message.WhichOneof("kind") in (None, "tensor"):
            return sent
        spec = self.backbone.input
        # More is refused, whatever a shape claims.
        elements = min(prepared_elements(spec, message), self.max_elements)
        return sent + elements * np.dtype(spec.tensor.dtype).itemsize

    def tensor(self, message: tensor_pb2.Tensor, *, field: str = "input.tensor") -> Array:
        """The rows of a tensor input, without waiting."""
        array = decode_tensor(message, field=field)
        self._check_dtype(array, field)
        self._check_shape(array, field)
        self._check_ids(array, field)
        self._check_finite(array, field)
        return self._within_limits(array)

    def gradient(self, message: tensor_pb2.Tensor, rows: int) -> Array:
        """The embedding's gradient of a Backward call; [rows, num_features], floating."""
        array = decode_tensor(message, field="grad_embedding")
        expected = (rows, self.backbone.num_features)
        if array.shape != expected or not _is_floating(array.dtype):
            raise InvalidInputError(
                f"grad_embedding is {array.dtype.name} {list(array.shape)}, expected floating {list(expected)}",
                field="grad_embedding",
            )
        return array

    def bucket(self, rows: Array) -> tuple[Hashable, int]:
        """The bucket of an item, and its cost in elements, padding included."""
        shape = padded_shape(self.backbone.input, rows.shape[1:])
        return shape, len(rows) * elements(shape)

    def _check_dtype(self, array: Array, field: str) -> None:
        wanted = self.backbone.input.tensor.dtype
        right = array.dtype.kind in "iu" if wanted.startswith(("int", "uint")) else _is_floating(array.dtype)
        if not right:
            raise InvalidInputError(
                f"{field} is {array.dtype.name}, backbone {self.backbone.name!r} takes {wanted}: convert it",
                field=f"{field}.dtype",
            )

    def _check_shape(self, array: Array, field: str) -> None:
        wanted = self.backbone.input.tensor.shape
        trailing = array.shape[1:]
        fits = array.ndim == len(wanted) + 1 and all(
            want in (None, got) for want, got in zip(wanted, trailing, strict=True)
        )
        if not fits:
            shape = ", ".join("any" if size is None else str(size) for size in wanted)
            raise InvalidInputError(
                f"{field} has shape {list(array.shape)}, backbone {self.backbone.name!r} takes [rows, {shape}]",
                field=f"{field}.shape",
            )
        spec = self.backbone.input
        if isinstance(spec, TextInput) and trailing[0] > spec.max_tokens:
            raise InvalidInputError(
                f"{field} has {trailing[0]} tokens a row, at most {spec.max_tokens} are taken: truncate it",
                field=f"{field}.shape",
            )

    def _check_ids(self, array: Array, field: str) -> None:
        """Ids that the module cannot look up never reach it: on a GPU they would end the process's use of it."""
        if not isinstance(self.backbone.input, TextInput) or not array.size:
            return
        last = np.iinfo(np.int64).max if self.last_id is None else self.last_id
        least, largest = int(array.min()), int(array.max())
        if least < 0 or largest > last:
            wrong = least if least < 0 else largest
            raise InvalidInputError(
                f"{field} has the token id {wrong}, backbone {self.backbone.name!r} has 0..{last}: "
                "use its own tokenizer",
                field=f"{field}.data",
            )

    def _check_size(self, rows: int, elements: int) -> None:
        """Too many media are refused before any is decoded."""
        if rows > self.max_rows or elements > self.max_elements:
            raise LimitExceededError(
                f"one item has {rows} rows and {elements} elements, at most {self.max_rows} rows and "
                f"{self.max_elements} elements are taken: split it",
                field="input",
            )

    def _check_finite(self, array: Array, field: str) -> None:
        if not self.finite or array.dtype.kind in "iu":
            return
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InvalidInputError(
                f"{field} has NaN or infinite values, first in row {int(bad.argmax())}, and backbone "
                f"{self.backbone.name!r} takes none: clean it first",
                field=f"{field}.data",
            )

    def _within_limits(self, rows: Array) -> Array:
        self._check_size(len(rows), self.bucket(rows)[1])
        return rows


def check_options(options: embedding_pb2.Options, num_features: int) -> None:
    """Raises InvalidInputError for options that no embedding can satisfy."""
    if options.HasField("dtype") and options.dtype not in _OUTPUT_CODES:
        raise InvalidInputError(
            "options.dtype must be float32, float16, bfloat16, float64, or int8 with a scale a row",
            field="options.dtype",
        )
    if options.HasField("dimensions") and not 1 <= options.dimensions <= num_features:
        raise InvalidInputError(
            f"options.dimensions is {options.dimensions}, this backbone has 1..{num_features}",
            field="options.dimensions",
        )


def apply_options(rows: Array, options: embedding_pb2.Options) -> Array:
    """The embedding of an item under the caller's options: truncated, then normalised, then converted.

    What is asked for as int8 stays floating until `encode_features`.
    """
    if options.HasField("dimensions"):
        rows = rows[:, : options.dimensions]
    if options.normalize:
        wide = rows.astype(np.promote_types(np.float32, rows.dtype))
        norm = np.linalg.norm(wide, axis=-1, keepdims=True)
        rows = (wide / np.maximum(norm, np.finfo(wide.dtype).tiny)).astype(rows.dtype)
    if options.HasField("dtype") and options.dtype != tensor_pb2.DATA_TYPE_INT8:
        with np.errstate(over="ignore"):  # infinite in a narrower type, and no news for the log
            rows = rows.astype(dtype_from_code(options.dtype), copy=False)
    return rows


def encode_features(rows: Array, options: embedding_pb2.Options) -> tensor_pb2.Tensor:
    """The message of features that `apply_options` made."""
    return encode_int8_rows(rows) if options.dtype == tensor_pb2.DATA_TYPE_INT8 else encode_tensor(rows)


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
