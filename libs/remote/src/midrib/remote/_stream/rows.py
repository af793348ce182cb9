"""What a call asks for: rows of one kind, which can be cut and joined and written as one item."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from midrib.remote._stream.codec import encode_item
from midrib.v1 import embedding_pb2
from midrib.wire import Array, InvalidInputError, array_bytes, code_from_dtype, encode_tensor, is_floating

if TYPE_CHECKING:
    from PIL.Image import Image

_FLOAT32: Final = np.dtype(np.float32)  # - as most arrays are, which need no look
_SAMPLE_BYTES: Final = 64  # - hashing them all would cost as much as the rest of the look-up
ImageLike: TypeAlias = "bytes | str | Path | Array | Image"


class Rows(Protocol):
    """Rows of one input. Rows of an equal key may travel in one item."""

    key: Hashable
    count: int
    nbytes: int

    def cut(self, start: int, stop: int) -> Rows: ...

    def encode(self, item_id: int, others: Sequence[Any]) -> bytes:
        """The item of these rows and of the others', which have the same key."""
        ...

    def sample(self) -> Hashable:
        """Equal for equal rows, and seldom for others: what is cheap to look them up by."""
        ...

    def equals(self, other: Any) -> bool:
        """Whether these are the very rows of the other, both of which were sampled."""
        ...


class TensorRows:
    """The rows of an array [rows, ...], in memory order; copied: their bytes, which nobody will change."""

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
        """These rows in memory of their own, which is copied no more before it is sent."""
        data = self.array.tobytes()
        return TensorRows(np.ndarray(self.array.shape, self.array.dtype, data), data)

    def encode(self, item_id: int, others: Sequence[TensorRows]) -> bytes:
        shape = (sum((other.count for other in others), self.count), *self.array.shape[1:])
        return encode_item(item_id, self.array.dtype, shape, [self.data(), *(other.data() for other in others)])

    def sample(self) -> Hashable:
        self._copied = data = self._copied or self.array.tobytes()  # which is what will be sent
        return data[:: len(data) // _SAMPLE_BYTES | 1]

    def equals(self, other: TensorRows) -> bool:
        return self.key == other.key and self.data() == other.data()

    def data(self) -> bytes | memoryview:
        """Their bytes, copied where they were copied already."""
        return self._copied or array_bytes(self.array)


class MediaRows:
    """Encoded images, strings or clips, one a row."""

    def __init__(self, kind: str, values: tuple[Any, ...], sizes: tuple[int, ...], rate: int = 0) -> None:
        self.key: Hashable = (kind, rate)
        self.count = len(values)
        self.nbytes = sum(sizes)
        self.values = values
        self._kind, self._sizes, self._rate = kind, sizes, rate

    def cut(self, start: int, stop: int) -> MediaRows:
        return MediaRows(self._kind, self.values[start:stop], self._sizes[start:stop], self._rate)

    def encode(self, item_id: int, others: Sequence[MediaRows]) -> bytes:
        values = [value for rows in (self, *others) for value in rows.values]
        message = embedding_pb2.Input()
        if self._kind == "images":
            message.images.encoded.extend(values)
        elif self._kind == "texts":
            message.texts.texts.extend(values)
        else:
            message.audio.rate = self._rate
            message.audio.clips.extend(encode_tensor(clip) for clip in values)
        item = embedding_pb2.Item(id=item_id, input=message)
        return embedding_pb2.EmbedStreamRequest(item=item).SerializeToString()

    def sample(self) -> Hashable:
        return tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in self.values)

    def equals(self, other: MediaRows) -> bool:
        return self.key == other.key and self.sample() == other.sample()


def tensor_rows(x: ArrayLike, *, dtype: str | None = None) -> TensorRows:
    """Rows of anything numpy takes, shaped [rows, ...]; floating ones as dtype where it is given.

    Raises InvalidInputError for a scalar or an element type that cannot travel.
    """
    array = np.asarray(x)
    if array.dtype is not _FLOAT32 or dtype is not None or not 0 < array.ndim <= 8:
        array = _fit_to_travel(array, dtype)
    return TensorRows(np.ascontiguousarray(array))


def _fit_to_travel(array: Array, dtype: str | None) -> Array:
    if array.ndim == 0:
        raise InvalidInputError("input is a scalar, expected [rows, ...]: pass a batch, x[None] for one row")
    if dtype is not None and is_floating(array.dtype):
        array = array.astype(dtype, copy=False)
    if array.ndim > 8:
        raise InvalidInputError(f"input has {array.ndim} dimensions, at most 8 can travel: reshape it")
    code_from_dtype(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def image_rows(images: Sequence[ImageLike]) -> MediaRows:
    """Rows of encoded images (bytes), paths, PIL images or uint8 arrays [height, width, 3]."""
    encoded = tuple(_encode_image(image) for image in images)
    return MediaRows("images", encoded, tuple(map(len, encoded)))


def text_rows(texts: Sequence[str]) -> MediaRows:
    """Rows of strings. Raises InvalidInputError for one string, which would be a row a character."""
    if isinstance(texts, str):
        raise InvalidInputError("texts is one string, expected a sequence of them: pass [text]")
    values = tuple(texts)
    return MediaRows("texts", values, tuple(4 + len(text) for text in values))


def audio_rows(clips: Sequence[ArrayLike], rate: int | None) -> MediaRows:
    """Rows of mono clips [samples] in -1..1, all of one rate in samples a second."""
    if rate is None:
        raise InvalidInputError("audio came without its rate: pass rate=, in samples a second")
    values = tuple(np.array(clip, np.float32, order="C") for clip in clips)  # copied: they are encoded later
    return MediaRows("audio", values, tuple(clip.nbytes + 16 for clip in values), rate)


def _encode_image(image: ImageLike) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        from PIL import Image

        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")  # lossless: the server sees the caller's pixels
    return buffer.getvalue()
