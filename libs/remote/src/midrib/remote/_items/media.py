"""Images, texts and clips as the bytes of one protobuf field each, checked when the call is made.

The rules equal those of `midrib.backbones`, which this library does not import because it needs torch. Images share
the code in `midrib.media`; a property test compares the features of both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from midrib.remote._items.images import ImageLike, encoded_image
from midrib.wire import Array, InvalidInputError, encode_tensor, is_floating, varint

_INTEGERS: Final = frozenset(map(np.dtype, ("i1", "u1", "i2", "i4", "i8")))
_MAX_INT64: Final = 2**63 - 1


def image_fields(images: Sequence[ImageLike]) -> tuple[bytes, ...]:
    """Return one field per image: encoded files as they are, decoded pictures as PNG.

    Raises InvalidInputError, with the index, for an item that is not a usable image; OSError for a file that cannot be
    read. An array [height, width, 3] is refused: it would be as many grey pictures of width 3.
    """
    if isinstance(images, bytes | bytearray | str | Path):
        raise InvalidInputError(f"images is one {type(images).__name__}, expected a sequence of images: pass [image]")
    if isinstance(images, np.ndarray):
        _check_pictures(images)
    return tuple(_field(_image(index, image)) for index, image in _items("images", images))


def _check_pictures(images: Array) -> None:
    """Raise InvalidInputError for an array that is probably one picture, [height, width, 3]."""
    from midrib.media import UnusableImageError, check_pictures

    try:
        check_pictures(images)
    except UnusableImageError as error:
        raise InvalidInputError(str(error)) from None


def text_fields(texts: Sequence[str]) -> tuple[bytes, ...]:
    """Return one field per text.

    Raises InvalidInputError for a single string, and, with the index, for an item that is not valid text.
    """
    if isinstance(texts, str):
        raise InvalidInputError(f"texts is {texts!r:.80}, expected a sequence of strings: pass [text]")
    return tuple(_field(_utf8(index, text)) for index, text in _items("texts", texts))


def clip_fields(clips: Sequence[ArrayLike]) -> tuple[bytes, ...]:
    """Return one field per clip, [samples] or [samples, channels]: integers in their own type, floats as float32.

    Raises InvalidInputError, with the index, for an item that is not a clip.
    """
    return tuple(
        _field(encode_tensor(_samples(index, clip)).SerializeToString()) for index, clip in _items("audio", clips)
    )


def checked_rate(rate: object) -> int:
    """Return the rate of clips, in samples a second. Raises InvalidInputError if it is not a positive integer."""
    if rate is None:
        raise InvalidInputError("audio came without its rate: pass rate=, in samples a second")
    try:
        samples_per_s = operator.index(rate)  # type: ignore[arg-type] # the check itself
    except TypeError:
        raise InvalidInputError(f"rate is {rate!r}, expected an integer in samples a second: pass 16000") from None
    if not 0 < samples_per_s <= _MAX_INT64:
        raise InvalidInputError(f"rate is {samples_per_s}, expected samples a second such as 16000")
    return samples_per_s


def _items(kind: str, values: Iterable[Any]) -> Iterable[tuple[int, Any]]:
    """Return items with their indices. Raises InvalidInputError for a value that is not an ordered collection."""
    try:
        if not isinstance(values, Mapping | set | frozenset):
            return enumerate(values)
    except TypeError:  # not iterable
        pass
    raise InvalidInputError(f"{kind} is a {type(values).__name__}, expected a sequence: pass a list of {kind}")


def _image(index: int, image: ImageLike) -> bytes:
    """Return an image as the bytes of a file. Raises InvalidInputError also for a path that cannot exist."""
    if not isinstance(image, str | Path):
        return encoded_image(index, image)
    try:
        return Path(image).read_bytes()
    except ValueError as error:  # a NUL, or characters that the file system cannot have
        raise InvalidInputError(f"images[{index}] is {str(image)!r:.80}, not a path ({error}): pass a path") from None


def _field(content: bytes) -> bytes:
    """Return field 1 of a message, of type bytes, string or message."""
    return b"\x0a" + varint(len(content)) + content


def _utf8(index: int, text: object) -> bytes:
    """Return the text in UTF-8. Raises InvalidInputError for a value that is not a text."""
    if not isinstance(text, str):
        raise InvalidInputError(f"texts[{index}] is {text!r:.80}, expected a string: leave it out, or convert it")
    try:
        return str.encode(text)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"texts[{index}] is not valid Unicode at character {error.start}: decode its file with the right encoding"
        ) from None


def _samples(index: int, clip: ArrayLike) -> Array:
    """Return the samples of a clip. Raises InvalidInputError for another type or shape."""
    try:
        samples = np.asarray(clip)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: torch's, for a tensor that requires grad
        raise InvalidInputError(f"audio[{index}] is not an array of samples ({error}): pass [samples]") from None
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InvalidInputError(
            f"audio[{index}] has shape {list(samples.shape)}, expected [samples] or [samples, channels], not empty"
        )
    if is_floating(samples.dtype):
        with np.errstate(over="ignore"):  # the server refuses infinite samples
            return samples.astype(np.float32, copy=False)
    if isinstance(clip, list | tuple) or samples.dtype.kind not in "iu":
        kind = f"{type(clip).__name__} of integers" if isinstance(clip, list | tuple) else str(samples.dtype)
        raise InvalidInputError(f"audio[{index}] is a {kind}, expected a numpy array of floats or integers: convert it")
    return samples if samples.dtype.newbyteorder("=") in _INTEGERS else _signed(samples)


def _signed(samples: Array) -> Array:
    """Return unsigned samples of a width that the wire lacks as signed ones, which mean the same sound."""
    native = samples.astype(samples.dtype.newbyteorder("="))
    middle = native.dtype.type(1 << 8 * native.itemsize - 1)
    signed: Array = (native ^ middle).view(f"i{native.itemsize}")
    return signed
