"""Images as the bytes of files: encoded ones as they are, decoded pictures as PNG.

The rules equal those of `midrib.backbones._pixels`, which this library does not import; a property test compares the
features of both.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from midrib.wire import Array, InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "bytes | bytearray | memoryview | str | Path | Array | Image"
_WHITE: Final = (255, 255, 255, 255)
_LARGEST_16_BIT: Final = 65535
# Tags of TIFF and their values.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLE_FORMAT, _SIGNED = 339, 2
_BITS_PER_SAMPLE, _BITS_OF_A_BYTE = 258, 8
# A grey PNG of few bits names its transparent level in those bits, while Pillow scales its pixels to 8.
_LEVELS_PER_STEP: Final = {"1": 255, "L;1": 255, "L;2": 85, "L;4": 17}


class _Properties(NamedTuple):
    """The properties of an opened image that Pillow does not apply.

    white_is_zero: a 16-bit TIFF whose 0 is white.  transparent_level: the grey level that is transparent.
    unscaled: the kind of the pixels, such as "32 bits per pixel", if their scale is unknown.
    """

    white_is_zero: bool
    transparent_level: int | None
    unscaled: str | None


def encoded_image(index: int, image: ImageLike) -> bytes:
    """Return an image as the bytes of a file.

    Raises InvalidInputError, with the index, for another type, a damaged image, and pixels whose scale is unknown;
    OSError for a file that cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    from PIL.Image import Image

    if not isinstance(image, np.ndarray | Image):
        raise InvalidInputError(
            f"images[{index}] is a {type(image).__name__}, expected bytes, a path, a PIL image or a numpy array"
        )
    picture = _from_array(index, image) if isinstance(image, np.ndarray) else _rgb_of(index, image)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)  # lossless: the server reads these very pixels
    return buffer.getvalue()


def _from_array(index: int, array: Array) -> Image:
    """Return an array as an RGB image. Raises InvalidInputError for another dtype or shape."""
    from PIL import Image

    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shaped or 0 in array.shape:
        raise InvalidInputError(
            f"images[{index}] has shape {list(array.shape)}, expected [height, width], [height, width, 3] or "
            "[height, width, 4]"
        )
    if array.dtype.newbyteorder("=") == np.uint16:
        array = _levels(array)
    elif array.dtype != np.uint8:
        raise InvalidInputError(
            f"images[{index}] is an array of {array.dtype}, expected uint8 or uint16: scale it to 0..255 and convert it"
        )
    return _over_white(Image.fromarray(np.ascontiguousarray(array.astype(np.uint8))))


def _levels(levels: Array) -> Array:
    """Return levels [...] of 0..65535 as levels [...] of 0..255, rounded."""
    scaled: Array = ((levels.astype(np.uint32) * 255 + 32767) // _LARGEST_16_BIT).astype(np.uint8)
    return scaled


def _rgb_of(index: int, image: Image) -> Image:
    """Return a picture as RGB. Raises InvalidInputError if it is damaged or empty, or its scale is unknown."""
    try:
        properties = _properties(image)
        if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:
            # Pillow reads such a PNG with 8 bits per channel, but its transparent colour with 16.
            image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
        image.load()
        upright = _upright(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"images[{index}] cannot be decoded ({error}): open it again, whole") from error
    if 0 in upright.size:
        raise InvalidInputError(f"images[{index}] has no pixels, its size is {upright.size}: leave it out")
    kind = "floating pixels (mode F)" if image.mode == "F" else properties.unscaled
    if kind is not None:
        raise InvalidInputError(
            f"images[{index}] has {kind}, expected 8 or 16 unsigned bits a channel: scale its pixels and convert it"
        )
    if upright.mode.startswith("I"):
        return _grey_of_16_bits(index, upright, properties)
    if properties.transparent_level is not None:
        return _without_level(upright.convert("L"), properties.transparent_level)
    return _over_white(upright)


def _properties(image: Image) -> _Properties:
    """Return the properties of an image; its raw mode is known only before it is loaded."""
    level = image.info.get("transparency")
    level = level if isinstance(level, int) and image.format == "PNG" and image.mode in ("1", "L", "I;16") else None
    tags: Any = getattr(image, "tag_v2", None)
    is_deep = image.mode.startswith("I;16")
    return _Properties(
        is_deep and tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        None if level is None else level * _LEVELS_PER_STEP.get(_raw_mode(image), 1),
        _unscaled(image, tags),
    )


def _unscaled(image: Image, tags: Any) -> str | None:
    if tags is not None and _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, ())):
        return "signed pixels"
    if tags is not None and _raw_mode(image) == "R" and max(tags.get(_BITS_PER_SAMPLE, (8,))) > _BITS_OF_A_BYTE:
        # Pillow reads uncompressed planes of 16 bits as planes of 8, which is another picture.
        return "16 bits in separate planes"
    return "32 bits per pixel" if image.mode == "I" and image.format == "TIFF" else None


def _raw_mode(image: Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _upright(image: Image) -> Image:
    """Turn the image as its EXIF or XMP orientation says; unreadable metadata leaves it as it is."""
    from PIL import ExifTags, Image

    turns = Image.Transpose
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 (parsers of metadata raise nearly every kind of error; the pixels are good)
        return image
    # By EXIF orientation. Source: the EXIF 2.3 standard, section 4.6.4.
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation if isinstance(orientation, int) else 1)
    return image if turn is None else image.transpose(turn)


def _grey_of_16_bits(index: int, image: Image, properties: _Properties) -> Image:
    """Return an image of 16 bits as RGB. Raises InvalidInputError for levels that need more bits."""
    from PIL import Image

    pixels: Array = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > _LARGEST_16_BIT:
        raise InvalidInputError(
            f"images[{index}] has levels of {pixels.min()} to {pixels.max()}, expected 8 or 16 unsigned bits: scale "
            "them and convert it"
        )
    levels = pixels.astype(np.uint16)
    if properties.white_is_zero:
        levels = _LARGEST_16_BIT - levels
    if properties.transparent_level is not None:
        levels = np.where(pixels == properties.transparent_level, np.uint16(_LARGEST_16_BIT), levels)
    return Image.fromarray(_levels(levels)).convert("RGB")


def _without_level(grey: Image, level: int) -> Image:
    """Return a grey image as RGB with the pixels of one level made white."""
    from PIL import Image

    pixels: Array = np.asarray(grey)
    return Image.fromarray(np.where(pixels == level, np.uint8(255), pixels)).convert("RGB")


def _over_white(image: Image) -> Image:
    """Return an image of 8 bits as RGB, transparency over white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    # Pillow converts premultiplied grey to LA only.
    image = image.convert("LA") if image.mode == "La" else image
    page = Image.new("RGBA", image.size, _WHITE)
    return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
