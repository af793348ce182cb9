"""Awkward images, texts and clips: the same ones every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageOps

_PHOTO: Final = "chelsea"
_ORIENTATION: Final = 0x0112  # EXIF: how the picture is turned


def make_images(folder: Path) -> list[Path]:
    """Write pictures of every mode, shape and format that causes trouble; return their paths."""
    photo = Image.fromarray(getattr(skimage.data, _PHOTO)())
    gradient = np.linspace(0, 65535, 300 * 200).reshape(200, 300).astype(np.uint16)
    alpha = Image.fromarray((np.arange(photo.width)[None, :].repeat(photo.height, 0) % 256).astype(np.uint8))
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    makers: dict[str, Callable[[Path], object]] = {
        "photo.jpg": photo.save,
        "photo.webp": photo.save,
        "progressive.jpg": lambda path: photo.save(path, progressive=True, quality=60),
        "cmyk.jpg": lambda path: photo.convert("CMYK").save(path),
        "grey.png": lambda path: photo.convert("L").save(path),
        "palette.png": lambda path: photo.quantize(64).save(path),
        "transparent.png": lambda path: _with_alpha(photo, alpha).save(path),
        "bilevel.tif": lambda path: photo.convert("1").save(path),
        "sixteen_bits.png": lambda path: Image.fromarray(gradient).save(path),
        "turned.jpg": lambda path: photo.save(path, exif=turned),
        "animated.gif": lambda path: photo.quantize(32).save(path, save_all=True, append_images=[photo.rotate(90)]),
        "one_pixel.png": lambda path: photo.resize((1, 1)).save(path),
        "thin.png": lambda path: photo.resize((3, 700)).save(path),
        "wide.png": lambda path: photo.resize((1500, 11)).save(path),
        "large.jpg": lambda path: photo.resize((2600, 1900)).save(path),
    }
    for name, make in makers.items():
        make(folder / name)
    return [folder / name for name in makers]


def decoded(path: Path) -> Image.Image:
    """Return a picture as our documentation says it is read: upright, the first frame, 8-bit RGB over white.

    For the libraries we compare with: their transforms begin with an RGB picture.
    """
    picture = Image.open(path)
    picture.load()
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.floor(levels * 255 / 65535 + 0.5).astype(np.uint8)).convert("RGB")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        page = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def make_texts() -> list[str]:
    """Return texts of many lengths, scripts and oddities."""
    return [
        "a cat sleeps",
        "x",
        " leading and   inner\tspaces\n\nand lines ",
        "UPPER lower MiXeD",
        "naïve café, Zürich, Ångström: composed and decomposed e\u0301",
        "die Katze schläft; 猫が寝ている; кошка спит; القطة نائمة; 🐈💤",
        "unbelievablyantidisestablishmentarianisticwordwithoutspaces" * 4,
        "numbers 3.14159, 1e-9, 12/31/1999 and code: for (int i = 0; i < n; ++i) {}",
        "zero\u200bwidth \u202eright-to-left\u202c soft\u00adhyphen",
        "word " * 900,
    ]


def make_clips() -> list[tuple[NDArray[Any], int]]:
    """Return (samples, rate): tones, noise and silence, of several lengths, rates, types and numbers of channels."""
    random = np.random.default_rng(0)

    def tone(seconds: float, rate: int, hertz: float = 440.0) -> NDArray[np.float32]:
        times = np.arange(int(seconds * rate)) / rate
        return (0.4 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)

    noise = (0.1 * random.standard_normal(24000)).astype(np.float32)
    return [
        (tone(1.0, 16000), 16000),
        (noise, 16000),
        (np.round(tone(2.0, 16000, 220.0) * 32767).astype(np.int16), 16000),
        (np.stack([tone(1.0, 16000), -0.5 * tone(1.0, 16000, 880.0)], axis=1), 16000),
        (np.concatenate([np.zeros(8000, np.float32), noise]), 16000),
        (tone(0.5, 16000) * 1e-3, 16000),
    ]


def _with_alpha(photo: Image.Image, alpha: Image.Image) -> Image.Image:
    picture = photo.convert("RGBA")
    picture.putalpha(alpha)
    return picture


def as_mono(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return a clip as our documentation says it is read: floats in -1..1, channels averaged."""
    floats = samples.astype(np.float64)
    if samples.dtype.kind == "i":
        floats /= 2.0 ** (8 * samples.dtype.itemsize - 1)
    return (floats.mean(axis=1) if samples.ndim > 1 else floats).astype(np.float32)
