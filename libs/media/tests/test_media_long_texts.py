"""The texts of a large PNG are not given to Pillow, which would decode them while it holds the interpreter's lock."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from midrib.media._decode import open_image
from midrib.media._metadata import without_long_texts

PIXELS = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
LONG = "x" * 2**21


def png(*, text: str, packed: bool = False) -> bytes:
    """Return an image with a text before its pixels."""
    texts = PngInfo()
    texts.add_text("Comment", text, zip=packed)
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


@pytest.mark.parametrize(
    ("encoded", "texts"),
    [
        pytest.param(png(text=LONG), {}, id="a long text"),
        pytest.param(png(text="short", packed=True), {"Comment": "short"}, id="a short text"),
        pytest.param(png(text="short") + bytes(2**21), {}, id="bytes behind the image"),
    ],
)
def test_a_large_image_is_read_without_its_texts(encoded: bytes, texts: dict[str, str]) -> None:
    """Its pixels are the same as those of the image without texts."""
    image = open_image(encoded, 64).image
    assert {name: value for name, value in image.info.items() if name == "Comment"} == texts
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PIXELS)


def test_a_large_image_of_very_many_texts_takes_little_memory() -> None:
    """Less than twice its bytes, although each text is behind a chunk that is kept."""
    chunks = 100_000 * (bytes(4) + b"prVt" + bytes(4) + bytes(4) + b"tEXt" + bytes(4))
    data = b"\x89PNG\r\n\x1a\n" + chunks
    tracemalloc.start()
    bare = without_long_texts(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(bare) == 8 + len(chunks) // 2
    assert peak < 2 * len(data)


def test_a_large_image_that_is_cut_off_is_refused() -> None:
    """It is refused like a small one, although its texts are left out."""
    with pytest.raises((OSError, SyntaxError), match="truncated|broken|damaged"):
        open_image(png(text=LONG)[:-60], 64)
