"""From an Input message to the arrays of an item, and from an item's rows to the embedding that is asked for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from midrib.backbones import Backbone, MediaError
from midrib.registry import TextInput
from midrib.server._intake.media import MediaPool, media_kind, media_of, prepared_elements
from midrib.server._intake.validation import InputValidator, check_size
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, InputKindError, InvalidInputError, decode_tensor, is_floating

_FEATURE_BYTES = 4  # of float32, which most are


class Intake:
    """What one backbone accepts.

    max_rows, max_elements: of one item.
    last_id: the largest token id that the module looks up; None where that is not known.
    pool: decodes media, beside the event loop.
    finite: whether NaN and infinite values are refused.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: MediaPool,
        *,
        max_rows: int,
        max_elements: int,
        last_id: int | None,
        finite: bool = False,
    ) -> None:
        self.backbone = backbone
        self.max_rows = max_rows
        self.max_elements = max_elements
        self._last_id = last_id
        self._pool = pool
        self._finite = finite
        self._takes_ids = isinstance(backbone.input, TextInput)
        # What follows from shapes alone is found out once a shape.
        self._validator = InputValidator(backbone.name, backbone.input, max_rows=max_rows, max_elements=max_elements)

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
            rows = await self._pool.prepare(self.backbone, message)
        except MediaError as error:
            raise InvalidInputError(str(error), field=f"input.{kind}[{error.index}]") from error
        self._check_size(len(rows), self.bucket(rows)[1])
        return rows

    def size(self, given: embedding_pb2.Input | Array) -> int:
        """The bytes that an item holds while it is in flight: what was sent, what its media become, its embedding."""
        if isinstance(given, np.ndarray):
            return given.nbytes + self._embedding_bytes(given.shape)
        sent: int = given.ByteSize()
        if given.WhichOneof("kind") in (None, "tensor"):
            return sent + self._embedding_bytes(given.tensor.shape)
        spec = self.backbone.input
        # More is refused, whatever a shape claims.
        elements = min(prepared_elements(spec, given), self.max_elements)
        decoded = elements * np.dtype(spec.tensor.dtype).itemsize
        return sent + decoded + self._embedding_bytes((len(media_of(given)),))

    def _embedding_bytes(self, shape: Sequence[int]) -> int:
        rows = min(max(shape[0], 0), self.max_rows) if shape else 0
        return rows * self.backbone.num_features * _FEATURE_BYTES

    def tensor(self, message: tensor_pb2.Tensor, *, field: str = "input.tensor") -> Array:
        """The rows of a tensor input, without waiting."""
        return self.checked(decode_tensor(message, field=field), field=field)

    def checked(self, array: Array, *, field: str = "input.tensor") -> Array:
        """The array, which is one that the module takes; field names its place in the request, for the error."""
        self._validator.check(array.dtype, array.shape, field)
        if self._takes_ids and array.size:
            self._check_ids(array, field)
        if self._finite and array.dtype.kind not in "iu":
            self._check_finite(array, field)
        return array

    def gradient(self, message: tensor_pb2.Tensor, rows: int) -> Array:
        """The embedding's gradient of a Backward call; [rows, num_features], floating."""
        array = decode_tensor(message, field="grad_embedding")
        expected = (rows, self.backbone.num_features)
        if array.shape != expected or not is_floating(array.dtype):
            raise InvalidInputError(
                f"grad_embedding is {array.dtype.name} {list(array.shape)}, expected floating {list(expected)}",
                field="grad_embedding",
            )
        return array

    def bucket(self, rows: Array) -> tuple[Hashable, int]:
        """The bucket of an item, and its cost in elements, padding included."""
        return self._validator.bucket(rows.shape)

    def _check_size(self, rows: int, elements: int) -> None:
        """Too many media are refused before any is decoded."""
        check_size(rows, elements, self.max_rows, self.max_elements)

    def _check_ids(self, array: Array, field: str) -> None:
        """Ids that the module cannot look up never reach it: on a GPU they would end the process's use of it."""
        last = np.iinfo(np.int64).max if self._last_id is None else self._last_id
        least, largest = int(array.min()), int(array.max())
        if least < 0 or largest > last:
            wrong = least if least < 0 else largest
            raise InvalidInputError(
                f"{field} has the token id {wrong}, backbone {self.backbone.name!r} has 0..{last}: "
                "use its own tokenizer",
                field=f"{field}.data",
            )

    def _check_finite(self, array: Array, field: str) -> None:
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InvalidInputError(
                f"{field} has NaN or infinite values, first in row {int(bad.argmax())}, and backbone "
                f"{self.backbone.name!r} takes none: clean it first",
                field=f"{field}.data",
            )
