"""The public names and the imports of midrib.media."""

from __future__ import annotations

import subprocess
import sys

import pytest

from midrib import media


def test_the_public_list_is_sorted_and_whole() -> None:
    """Every listed name exists, and none is listed twice."""
    assert media.__all__ == sorted(set(media.__all__))
    assert all(hasattr(media, name) for name in media.__all__)


@pytest.mark.parametrize("brand", [b"heic", b"heix"])
def test_a_heic_photograph_names_the_reader_that_is_missing(brand: bytes) -> None:
    """Telephones save it; it is no damaged file."""
    with pytest.raises(ValueError, match="got a HEIC image, .* convert it to JPEG, or install pillow-heif"):
        media.open_image(b"\0\0\0\x18ftyp" + brand + bytes(100))


def test_media_imports_neither_torch_nor_grpc() -> None:
    """Clients without torch use this library."""
    code = "import sys, midrib.media; print({'torch', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_client_imports_pillow_only_for_a_picture() -> None:
    """Most clients send encoded files or tensors."""
    code = "import sys, midrib.remote; print({'PIL', 'midrib.media'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
