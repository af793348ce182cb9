"""Open encoded images and arrays, turn them upright, and note the properties that Pillow does not apply."""

from __future__ import annotations

import contextlib
import io
import struct
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from midrib.media._metadata import without_long_texts, without_metadata

ImageMedia: TypeAlias = bytes | Image.Image | npt.NDArray[np.generic]

# The formats in which photographs are sent. Pillow's other readers include a PostScript interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# Read if a plugin such as pillow-heif has registered them.
_PLUGIN_FORMATS = ("HEIF",)
# Bytes 4 to 12 of the photographs of telephones. Source: ISO/IEC 23008-12, annex B.
_HEIC_STARTS = frozenset({b"ftypheic", b"ftypheix"})
_PREFIX_BYTES = 32
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_SAMPLE_FORMAT = 339
_SIGNED = 2
_BITS_PER_SAMPLE = 258
_BITS_OF_A_BYTE = 8
# By EXIF orientation. Source: the EXIF 2.3 standard, section 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A grey PNG of few bits names its transparent level in those bits, while Pillow scales its pixels to 8.
_LEVELS_PER_STEP = {"1": 255, "L;1": 255, "L;2": 85, "L;4": 17}


class UnusableImageError(ValueError):
    """An image that one of our own rules refuses; its text is the answer."""


def check_pictures(images: object) -> None:
    """Raise UnusableImageError for one array [height, width, 3 or 4]: its rows would be read as grey pictures."""
    if not isinstance(images, np.ndarray) or images.ndim != 3:
        return
    channels = images.shape[2]
    if channels in (3, 4) and min(images.shape[:2]) > channels:
        raise UnusableImageError(
            f"images is one array of shape {list(images.shape)}, expected a list of images, or an array [images, "
            "height, width, 3]: for one picture pass images=[array]"
        )


@dataclass(frozen=True)
class Decoded:
    """A decoded, upright image, with the properties that Pillow leaves to its caller.

    white_is_zero: a 16-bit TIFF whose 0 is white.  transparent_level: the grey level that is transparent.
    unscaled: the kind of the pixels, such as "32 bits per pixel", if their scale is unknown.
    """

    image: Image.Image
    white_is_zero: bool = False
    transparent_level: int | None = None
    unscaled: str | None = None


def open_image(image: ImageMedia, max_pixels: int | None = None) -> Decoded:
    """Decode bytes, a PIL image or an array.

    max_pixels: the limit for an encoded or opened image, checked before it is decoded; None for no limit.

    Raises UnusableImageError for other types and for kinds of a known format that Pillow does not read,
    DecompressionBombError for more than max_pixels, UnidentifiedImageError for bytes of no known format, and Pillow's
    own errors for damaged ones.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded_bytes(without_long_texts(bytes(image)), max_pixels)
    if isinstance(image, np.ndarray):
        return _decoded(_from_array(image), max_pixels)
    if isinstance(image, Image.Image):
        return _decoded(image, max_pixels)
    if isinstance(image, str | PathLike):
        raise UnusableImageError(f"got the path {str(image)!r:.200}, expected an image: pass Path(...).read_bytes()")
    raise UnusableImageError(f"got {type(image).__name__}, expected bytes, a PIL image or a numpy array")


def _decoded_bytes(data: bytes, max_pixels: int | None) -> Decoded:
    try:
        return _decoded(_identified(data), max_pixels)
    except Image.DecompressionBombError:
        raise
    except Exception:
        # Broken or oversized metadata makes Pillow refuse good pixels: read it again without.
        bare = without_metadata(data)
        if bare is None:
            raise
        return _decoded(_identified(bare), max_pixels)


def _identified(data: bytes) -> Image.Image:
    """Open bytes with the reader of their format.

    `Image.open` is not used because it enforces its own limit of pixels, which is one global of the process.
    Raises UnusableImageError for a damaged or rare file, UnidentifiedImageError for one of no known format.
    """
    Image.init()
    recognised: str | None = None
    for name in (*FORMATS, *_PLUGIN_FORMATS):
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(data[:_PREFIX_BYTES]) is not True):
            continue
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            return factory(io.BytesIO(data), "")
        recognised = recognised or (name if accept is not None else None)
    if recognised is None and data[4:12] in _HEIC_STARTS:
        raise UnusableImageError(
            "got a HEIC image, which no installed reader decodes: convert it to JPEG, or install pillow-heif and call "
            "its register_heif_opener() where images are decoded"
        )
    if recognised is None:
        raise UnidentifiedImageError
    raise UnusableImageError(f"got a {recognised} file that is damaged or of a rare kind: send it again as PNG or JPEG")


def _decoded(image: Image.Image, max_pixels: int | None) -> Decoded:
    """Return the decoded image. Raises DecompressionBombError if it has more than max_pixels."""
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise Image.DecompressionBombError
    properties = _properties(image)
    if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:
        # Pillow reads such a PNG with 8 bits per channel, but its transparent colour with 16.
        image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
    image.load()
    return Decoded(_upright(image), **properties)


def _properties(image: Image.Image) -> dict[str, Any]:
    """Return the fields of Decoded; an image's raw mode is known only before it is loaded."""
    level = image.info.get("transparency")
    level = level if isinstance(level, int) and image.format == "PNG" and image.mode in ("1", "L", "I;16") else None
    tags = getattr(image, "tag_v2", None)
    deep = image.mode.startswith("I;16")
    return {
        "white_is_zero": deep and tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        "transparent_level": None if level is None else level * _LEVELS_PER_STEP.get(_raw_mode(image), 1),
        "unscaled": _unscaled(image, tags),
    }


def _unscaled(image: Image.Image, tags: Any) -> str | None:
    if tags is not None and _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, ())):
        return "signed pixels"
    if tags is not None and _raw_mode(image) == "R" and max(tags.get(_BITS_PER_SAMPLE, (8,))) > _BITS_OF_A_BYTE:
        # Pillow reads uncompressed planes of 16 bits as planes of 8, which is another picture.
        return "16 bits in separate planes"
    return "32 bits per pixel" if image.mode == "I" and image.format == "TIFF" else None


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF or XMP orientation says; unreadable metadata leaves it as it is."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 (parsers of metadata raise nearly every kind of error; the pixels are good)
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    """Return the image of an array. Raises UnusableImageError for another dtype or shape."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shaped or 0 in array.shape:
        raise UnusableImageError(
            f"got an array of shape {array.shape}, expected [height, width], [height, width, 3] or [height, width, 4]"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == np.uint16().itemsize:
        array = levels_of_16_bits(array)
    elif array.dtype != np.uint8:
        raise UnusableImageError(
            f"got an array of {array.dtype}, expected uint8 or uint16: scale it to 0..255 and convert it"
        )
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def levels_of_16_bits(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return levels [...] of 0..65535 as levels [...] of 0..255, rounded."""
    return ((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
