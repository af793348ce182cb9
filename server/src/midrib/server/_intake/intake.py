"""From an Input message to the arrays of an item."""

from __future__ import annotations

from collections.abc import Hashable

from midrib.backbones import Backbone, MediaError
from midrib.registry import TextInput, in_words
from midrib.server._intake.item_sizes import ItemSizes
from midrib.server._intake.media import MediaPool, media_kind, media_of, prepared_elements
from midrib.server._intake.validation import InputValidator, ItemLimits
from midrib.server._intake.values import ValueCheck
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, InputKindError, InvalidInputError, decode_tensor, is_floating


class Intake:
    """Reads and checks the inputs of one backbone.

    max_rows, max_elements: of one item.
    last_id: the largest token id that the module looks up; None if it is not known.
    pool: decodes media outside the event loop.
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
        self._pool = pool
        self._limits = ItemLimits(backbone.name, backbone.input, max_rows, max_elements)
        self._sizes = ItemSizes(self._limits, backbone.num_features)
        self._values = ValueCheck(backbone.name, isinstance(backbone.input, TextInput), last_id, finite)
        self._validator = InputValidator(self._limits)

    async def read(self, message: embedding_pb2.Input) -> Array:
        """Return the rows of an input, [rows, ...], as the backbone's module takes them.

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
            raise InputKindError(
                f"backbone {self.backbone.name!r} got {kind}, it takes {accepted} ({in_words(self.backbone.input)}): "
                f"send that, or name a backbone that takes {kind}"
            )
        # Too many media are refused before any is decoded.
        self._limits.check_size(len(media_of(message)), prepared_elements(self.backbone.input, message))
        try:
            rows = await self._pool.prepare(self.backbone, message)
        except MediaError as error:
            raise InvalidInputError(str(error), field=f"input.{kind}[{error.index}]") from error
        self._limits.check_size(len(rows), self.bucket(rows)[1])
        return rows

    def size(self, item: embedding_pb2.Input | Array) -> int:
        """Return the bytes that an item holds while it is in flight, with its decoded media and its embedding."""
        return self._sizes.bytes_of(item)

    def tensor(self, message: tensor_pb2.Tensor, *, field: str = "input.tensor") -> Array:
        """Return the rows of a tensor input, [rows, ...]. Raises as `checked`, InvalidInputError if it is damaged."""
        return self.checked(decode_tensor(message, field=field), field=field)

    def checked(self, array: Array, *, field: str = "input.tensor") -> Array:
        """Return the array, [rows, ...], if the module takes it; field: its place in the request, for the error.

        Raises InvalidInputError for a dtype, a shape or values that the module does not take, LimitExceededError for
        too many rows or elements.
        """
        self._validator.check(array.dtype, array.shape, field)
        self._values.check(array, field)
        return array

    def gradient(self, message: tensor_pb2.Tensor, rows: int) -> Array:
        """Return the gradient of the embedding of a Backward call, [rows, num_features], floating.

        Raises InvalidInputError for another shape or dtype.
        """
        array = decode_tensor(message, field="grad_embedding")
        expected = (rows, self.backbone.num_features)
        if array.shape != expected or not is_floating(array.dtype):
            raise InvalidInputError(
                f"grad_embedding is {array.dtype.name} {list(array.shape)}, expected floating {list(expected)}",
                field="grad_embedding",
            )
        return array

    def bucket(self, rows: Array) -> tuple[Hashable, int]:
        """Return the bucket of an item, [rows, ...], and its cost in elements, padding included."""
        return self._validator.bucket(rows.shape)
