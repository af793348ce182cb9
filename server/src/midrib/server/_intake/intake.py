"""From an Input message to the arrays of an item."""

from __future__ import annotations

from collections.abc import Hashable

from midrib.backbones import Backbone, MediaError
from midrib.registry import TextInput, in_words
from midrib.server._intake.item_sizes import ItemSizes
from midrib.server._intake.media import MediaPool, media_kind, prepared_elements
from midrib.server._intake.media_input import Media, WireTensor, media_of, wire_tensor
from midrib.server._intake.validation import InputValidator, ItemLimits, takes_pixels
from midrib.server._intake.values import IdRange, ValueCheck
from midrib.server._large import beside_loop
from midrib.v1 import embedding_pb2
from midrib.wire import Array, InputKindError, InvalidInputError, LimitExceededError, is_floating

# A prompt is put before each text of an item: with a thousand texts, its length counts a thousand times.
MAX_PROMPT_CHARS = 2**13


class Intake:
    """Reads and checks the inputs of one backbone.

    max_rows, max_elements: the limits of one item.
    ids: the token ids that the module looks up.
    pool: decodes media outside the event loop.
    finite: whether NaN and infinite values are refused.

    `prompts` are those that a call may name.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: MediaPool,
        *,
        max_rows: int,
        max_elements: int,
        ids: IdRange,
        finite: bool = False,
    ) -> None:
        self.backbone = backbone
        self.max_rows = max_rows
        self.max_elements = max_elements
        self._pool = pool
        self._limits = ItemLimits(backbone.name, backbone.input, max_rows, max_elements)
        self._sizes = ItemSizes(self._limits, backbone.num_features)
        self.prompts = backbone.prompts
        self._values = ValueCheck(backbone.name, isinstance(backbone.input, TextInput), ids, finite)
        self._validator = InputValidator(self._limits)

    @property
    def checks_values(self) -> bool:
        """Whether the values of a tensor are checked: they must not change afterwards."""
        return self._values.takes_ids or self._values.finite

    def prompt(self, options: embedding_pb2.Options) -> str | None:
        """Return the prompt that a call chose; None for the backbone's default.

        Raises InvalidInputError if the backbone takes no texts, or does not have that prompt, LimitExceededError if the
        prompt is too long.
        """
        if not options.HasField("prompt") and not options.HasField("prompt_name"):
            return None
        if not isinstance(self.backbone.input, TextInput):
            raise InvalidInputError(
                f"options.prompt is for texts, backbone {self.backbone.name!r} takes {self.backbone.input}: drop it",
                field="options.prompt",
            )
        fields = ("prompt", "prompt_name")
        text, name = (getattr(options, field) if options.HasField(field) else None for field in fields)
        if text is not None and len(text) > MAX_PROMPT_CHARS:
            raise LimitExceededError(
                f"options.prompt has {len(text)} characters, at most {MAX_PROMPT_CHARS} are accepted: shorten it",
                field="options.prompt",
            )
        try:
            return self.backbone.choose_prompt(text, name)
        except ValueError as error:
            raise InvalidInputError(str(error), field="options.prompt_name") from error

    async def read(self, source: embedding_pb2.Input | Media | WireTensor, prompt: str | None = None) -> Array:
        """Return the rows of an input, [rows, ...], as the backbone's module takes them.

        prompt: put before each text; None for the backbone's default.

        Raises InputKindError for media that this backbone does not take, InvalidInputError for a broken or
        ill-shaped input, LimitExceededError for one that is too large.
        """
        if isinstance(source, embedding_pb2.Input):
            source = _content(source)
        if isinstance(source, Media):
            return await self._read_media(source, prompt)
        self.check_promptless(prompt)
        tensor = source
        return await beside_loop(len(tensor.data), lambda: self.tensor(tensor))

    async def _read_media(self, media: Media, prompt: str | None) -> Array:
        """Return the prepared rows [rows, ...] of media. Raises InputKindError or InvalidInputError for others."""
        kind = media.kind
        takes = media_kind(self.backbone.input)
        if kind != takes:
            accepted = f"{takes} or a tensor" if takes else "a tensor"
            raise InputKindError(
                f"backbone {self.backbone.name!r} got {kind}, it takes {accepted} ({in_words(self.backbone.input)}): "
                f"send that, or name a backbone that takes {kind}"
            )
        # Too many media are refused before any is decoded.
        self._limits.check_size(len(media.items), prepared_elements(self.backbone.input, media))
        try:
            rows = await self._pool.prepare(self.backbone, media, prompt)
        except MediaError as error:
            raise InvalidInputError(str(error), field=f"input.{kind}[{error.index}]") from error
        self._limits.check_size(len(rows), self.bucket(rows)[1])
        return rows

    def check_promptless(self, prompt: str | None) -> None:
        """Raise InvalidInputError if a call with a tensor has a prompt: token ids cannot be prompted."""
        if prompt is not None:
            raise InvalidInputError(
                f"options.prompt is {prompt!r:.80}, and the input is a tensor: send texts, or put the prompt before "
                "the texts that you tokenize",
                field="options.prompt",
            )

    def size(self, item: embedding_pb2.Input | Media | WireTensor | Array) -> int:
        """Return the bytes that an item holds while it is in flight, with its decoded media and its embedding.

        item: an input message, or a tensor [rows, ...] that is already read.
        """
        return self._sizes.bytes_of(item)

    @property
    def largest_item_bytes(self) -> int:
        """The bytes of the largest input tensor that an item may have, and of its embedding."""
        return self._sizes.largest

    def tensor(self, tensor: WireTensor, *, field: str = "input.tensor") -> Array:
        """Return the rows of a tensor input, [rows, ...]. Raises as `checked`, InvalidInputError if it is damaged."""
        return self.checked(tensor.decoded(field), field=field)

    def checked(self, array: Array, *, field: str = "input.tensor") -> Array:
        """Return the array, [rows, ...], if the module takes it; field: its place in the request, for the error.

        Raises InvalidInputError for a dtype, a shape or values that the module does not take, LimitExceededError for
        too many rows or elements.
        """
        self._validator.check(array.dtype, array.shape, field)
        self._values.check(array, field)
        return array

    def gradient(self, tensor: WireTensor, rows: int) -> Array:
        """Return the gradient of the embedding of a Backward call, [rows, num_features], floating.

        Raises InvalidInputError for another shape or dtype.
        """
        array = tensor.decoded("grad_embedding")
        expected = (rows, self.backbone.num_features)
        if array.shape != expected or not is_floating(array.dtype):
            raise InvalidInputError(
                f"grad_embedding is {array.dtype.name} {list(array.shape)}, expected floating {list(expected)}",
                field="grad_embedding",
            )
        return array

    def check_differentiable(self, rows: Array) -> None:
        """Raise InputKindError for an input [rows, ...] of integers, which has no gradient."""
        if takes_pixels(self.backbone.input, rows.dtype):
            raise InputKindError("input is uint8, which has no gradient: send floats, (pixels / 255 - mean) / std")
        if rows.dtype.kind in "iu":
            raise InputKindError(f"backbone {self.backbone.name!r} takes integers: they have no gradient")

    def bucket(self, rows: Array) -> tuple[Hashable, int]:
        """Return the bucket of an item, [rows, ...], and its cost in elements, padding included.

        Pixels of uint8 and floats are in different buckets, because a batch has one dtype.
        """
        return self._validator.bucket(rows.shape, rows.dtype)


def _content(message: embedding_pb2.Input) -> Media | WireTensor:
    """Return the media or the tensor [rows, ...] of an input. Raises InvalidInputError if it has neither."""
    if (media := media_of(message)) is not None:
        return media
    if not message.HasField("tensor"):
        raise InvalidInputError("the input is empty: set one of tensor, images, texts, audio", field="input")
    return wire_tensor(message.tensor)
