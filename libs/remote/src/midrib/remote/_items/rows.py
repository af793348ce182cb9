"""The rows of a call: of one kind, cut and joined with others, and encoded as one item."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike

from midrib.remote._items.codec import encode_item, encode_media_item
from midrib.remote._items.images import ImageLike
from midrib.remote._items.media import checked_rate, clip_fields, image_fields, text_fields
from midrib.wire import Array, InvalidInputError, array_bytes, code_from_dtype, is_floating, varint

_FLOAT32: Final = np.dtype(np.float32)  # most arrays are, and need no conversion
# Encoding copies the bytes once in any case. Copying larger rows this early would use memory for longer.
_FROZEN_BYTES: Final = 16 << 10
# The tags of Input.images, Input.texts and Input.audio.
_IMAGES: Final = b"\x12"
_TEXTS: Final = b"\x1a"
_AUDIO: Final = b"\x22"


class Rows(Protocol):
    """Rows of one input. Rows of equal keys may be joined into one item."""

    key: Hashable
    count: int
    nbytes: int

    def cut(self, start: int, stop: int) -> Rows: ...

    def encode(self, item_id: int, following: Sequence[Any]) -> bytes:
        """Return the item of these rows and of the following ones, which have the same key."""
        ...

    def freeze(self) -> None:
        """Copy small rows, so that later changes to the caller's array are not sent."""
        ...


class TensorRows:
    """The rows of a contiguous array [rows, ...]. copied: their bytes, if they were copied already."""

    __slots__ = ("array", "key", "count", "nbytes", "_copied")

    def __init__(self, array: Array, copied: bytes | None = None) -> None:
        self.array = array
        shape = array.shape
        self.key: Hashable = (array.dtype, shape[1:])
        self.count = shape[0]
        self.nbytes = array.nbytes
        self._copied = copied

    def cut(self, start: int, stop: int) -> TensorRows:
        return TensorRows(self.array[start:stop])

    def copied(self) -> TensorRows:
        """Return these rows in new memory, which is not copied again before it is sent."""
        data = self.array.tobytes()
        return TensorRows(np.ndarray(self.array.shape, self.array.dtype, data), data)

    def encode(self, item_id: int, following: Sequence[TensorRows]) -> bytes:
        shape = (sum((rows.count for rows in following), self.count), *self.array.shape[1:])
        return encode_item(item_id, self.array.dtype, shape, [self.data(), *(rows.data() for rows in following)])

    def freeze(self) -> None:
        if self._copied is None and self.nbytes <= _FROZEN_BYTES:
            self._copied = self.array.tobytes()

    def data(self) -> bytes | memoryview:
        """Return their bytes: the copy, if there is one, else the array's memory."""
        return self._copied or array_bytes(self.array)


class MediaRows:
    """Images, texts or clips, one a row, each encoded as one field when the call is made.

    kind: the tag of the input's field that holds them.  last: bytes that follow the fields.
    """

    __slots__ = ("key", "count", "nbytes", "_fields", "_kind", "_last")

    def __init__(self, kind: bytes, fields: tuple[bytes, ...], last: bytes = b"") -> None:
        self.key: Hashable = (kind, last)
        self.count = len(fields)
        self.nbytes = sum(map(len, fields))
        self._fields, self._kind, self._last = fields, kind, last

    def cut(self, start: int, stop: int) -> MediaRows:
        return MediaRows(self._kind, self._fields[start:stop], self._last)

    def encode(self, item_id: int, following: Sequence[MediaRows]) -> bytes:
        fields = [field for rows in (self, *following) for field in rows._fields]
        return encode_media_item(item_id, self._kind, fields, self._last)

    def freeze(self) -> None:
        """Do nothing: the fields are bytes already."""


def tensor_rows(x: ArrayLike, *, dtype: str | None = None) -> TensorRows:
    """Return rows of anything numpy takes, shaped [rows, ...]; floating ones as dtype if it is given.

    Raises InvalidInputError for a scalar or an element type that cannot be sent.
    """
    try:
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: torch's, for a tensor that requires grad
        raise InvalidInputError(
            f"numpy cannot make an array of this {type(x).__name__} ({error}): pass an array [rows, ...]"
        ) from None
    if array.dtype is not _FLOAT32 or dtype is not None or not 0 < array.ndim <= 8:
        array = _fit_to_travel(array, dtype)
    return TensorRows(np.ascontiguousarray(array))


def _fit_to_travel(array: Array, dtype: str | None) -> Array:
    """Return the array as the protocol sends it. Raises InvalidInputError for a scalar, or too many dimensions."""
    if array.ndim == 0 and array.dtype == object:
        raise InvalidInputError(
            f"input is a {type(array.item()).__name__}, expected an array [rows, ...]: pass np.stack(...) of its rows"
        )
    if array.ndim == 0:
        raise InvalidInputError(
            f"input is a scalar of {array.dtype}, expected [rows, ...]: pass a batch, x[None] for one row"
        )
    if dtype is not None and is_floating(array.dtype):
        array = array.astype(dtype, copy=False)
    if array.ndim > 8:
        raise InvalidInputError(f"input has {array.ndim} dimensions, at most 8 can travel: reshape it")
    code_from_dtype(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def image_rows(images: Sequence[ImageLike]) -> MediaRows:
    """Return rows of encoded images (bytes), paths, PIL images, or arrays of uint8 or uint16.

    Arrays are [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    Raises InvalidInputError, with the index, for an item that is not an image; OSError for an unreadable file.
    """
    return MediaRows(_IMAGES, image_fields(images))


def text_rows(texts: Sequence[str]) -> MediaRows:
    """Return rows of strings. Raises InvalidInputError for one string, and for an item that is not valid text."""
    return MediaRows(_TEXTS, text_fields(texts))


def audio_rows(clips: Sequence[ArrayLike], rate: object) -> MediaRows:
    """Return rows of clips, [samples] or [samples, channels], all of one rate in samples a second.

    Integers count by their full range, floats are in -1..1.
    Raises InvalidInputError for a rate that is not a positive integer, and for an item that is not a clip.
    """
    return MediaRows(_AUDIO, clip_fields(clips), b"\x10" + varint(checked_rate(rate)))  # AudioClips.rate


def any_rows(x: Any) -> Rows:
    """Return rows of an array [rows, ...], or of texts if x is a sequence of strings.

    Raises InvalidInputError if numpy cannot make an array of x, or the array cannot be sent.
    """
    if isinstance(x, str):
        raise InvalidInputError(f"the input is {x!r:.80}, expected a batch: pass [text]")
    if isinstance(x, list | tuple) and any(isinstance(value, str) for value in x):
        return text_rows(x)
    if isinstance(x, np.ndarray) and x.ndim == 1 and (x.dtype.kind == "U" or _holds_text(x)):
        return text_rows(x.tolist())
    return tensor_rows(x)


def _holds_text(x: Array) -> bool:
    return x.dtype == object and any(isinstance(value, str) for value in x)
