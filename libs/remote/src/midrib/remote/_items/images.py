"""Images as the bytes of files: encoded ones as they are, decoded pictures as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from midrib.wire import Array, InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "bytes | bytearray | memoryview | str | Path | Array | Image"


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
    buffer = io.BytesIO()
    _rgb(index, image).save(buffer, "PNG", compress_level=1)  # lossless: the server reads these very pixels
    return buffer.getvalue()


def _rgb(index: int, image: Array | Image) -> Image:
    """Return a picture as RGB, by the rules of a server. Raises InvalidInputError if it cannot be used."""
    from midrib.media import UnusableImageError, open_image, to_rgb

    try:
        return to_rgb(open_image(image))
    except UnusableImageError as error:
        raise InvalidInputError(f"images[{index}]: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"images[{index}] cannot be decoded ({error}): open it again, whole") from error
