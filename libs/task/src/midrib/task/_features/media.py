"""Read files of images, texts and sound as the items that a backbone's preprocessing takes."""

from __future__ import annotations

import codecs
import io
import re
import struct
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# The longest first, because the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# The first bytes of files by gzip, xz, zstandard, 7-Zip and zip.
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"PK\x03\x04")
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_COMPRESSED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".lz4"})
_NO_VALUE = "it has no value"
# Programs that write WAV into a pipe do not know its length: they write 0, 0xFFFFFFFF or about 2**31.
_UNKNOWN_LENGTH = 0x7FFF0000


@dataclass(frozen=True)
class Clip:
    """A clip of sound.

    samples: [samples] or [samples, channels], floats in -1..1 or integers.  rate: samples per second.
    """

    samples: npt.NDArray[Any]
    rate: int


def image_of(item: Any) -> Any:
    """Return an image as encoded bytes, a PIL image or an array: a path is read, all else is returned unchanged.

    item: also a mapping with "bytes" and "path", as Hugging Face's datasets have it.
    Raises ValueError if the file cannot be read or the value is missing.
    """
    if isinstance(item, Mapping) and item.keys() & {"bytes", "path"}:
        item = item.get("bytes") or item.get("path")
    if isinstance(item, str | Path):
        if Path(item).is_fifo():  # to read it would wait for ever
            raise ValueError(f"the file {str(item)!r} is a pipe: save what it gives as a file")
        return read_bytes(item)
    return _present(item)


def text_of(item: Any) -> str:
    """Return a text: a string unchanged, or the content of the file at a Path.

    Raises ValueError for a file that cannot be read, and for values that are not texts, such as None or a number.
    """
    text = decode_text(read_bytes(item), item) if isinstance(item, Path) else _present(item)
    if not isinstance(text, str):
        raise ValueError(  # noqa: TRY004 (the reason why one row is left out)
            f"got {type(text).__name__}, expected a string, or a Path to a file of text"
        )
    return text


def clip_of(item: Any, rate: int) -> Clip:
    """Return a clip of sound.

    item: a path, a Clip, samples at `rate` samples per second, or a mapping with "array" and "sampling_rate", as
    Hugging Face's datasets have it.
    Raises ValueError if the file cannot be read or the value is missing.
    """
    if isinstance(item, Mapping) and item.keys() >= {"array", "sampling_rate"}:
        return Clip(np.asarray(item["array"]), int(item["sampling_rate"]))
    if isinstance(item, Mapping) and item.get("path"):
        item = Path(item["path"])
    if isinstance(item, str | Path):
        return _read_clip(Path(item))
    return item if isinstance(item, Clip) else Clip(np.asarray(_present(item)), rate)


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file.  Raises ValueError if it cannot be read, or is compressed."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError: the path holds a NUL byte
        problem = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"the file {str(path)!r} cannot be read ({problem}): check the path") from error
    if content.startswith(_COMPRESSED) or _BZIP2.match(content):
        raise ValueError(f"{path} is compressed: unpack it first")
    return content


def decode_text(data: bytes, path: Path) -> str:
    """Return text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.  Raises ValueError for other encodings."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid {encoding.upper()}: save it with the encoding UTF-8") from error


def refuse_compressed(path: Path) -> None:
    """Raise ValueError if the path's suffix is that of a compressed file."""
    if path.suffix.lower() in _COMPRESSED_SUFFIXES:
        raise ValueError(f"{path} is compressed: unpack it first")


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a mark: in UTF-16, every other byte of most texts is zero."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) <= len(data) // 8 or min(even, odd) > max(even, odd) // 8:
        return "utf-8"
    return "utf-16-be" if even > odd else "utf-16-le"


def is_missing(value: Any) -> bool:
    """Return whether a cell of a table holds no value: None, NaN, or pandas' NA and NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)  # only NaN differs from itself
    except (TypeError, ValueError):  # pandas' NA has no truth value, and neither has an array
        return type(value).__name__ == "NAType"


def _present(item: Any) -> Any:
    """Return the value. Raises ValueError for an empty one."""
    if is_missing(item):
        raise ValueError(_NO_VALUE)
    return item


def _read_clip(path: Path) -> Clip:
    """Read PCM in WAV with the standard library, and all else with soundfile.

    Raises ValueError for a file that cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"the file {str(path)!r} cannot be read: check the path")
    try:
        with wave.open(io.BytesIO(_with_its_length(path.read_bytes()))) as file:
            channels, width, rate, frames = file.getparams()[:4]
            data = file.readframes(frames)
    except (wave.Error, EOFError):
        return _read_with_soundfile(path)
    length = frames * width * channels
    if len(data) < length < _UNKNOWN_LENGTH:
        raise ValueError(f"{path} is cut short, {length - len(data)} bytes of its samples are missing: copy it again")
    samples = _pcm(data, width)
    return Clip(samples[: len(samples) // channels * channels].reshape(-1, channels), rate)


def _with_its_length(content: bytes) -> bytes:
    """Return a WAV file whose outer header has the file's length: programs that add chunks forget to correct it."""
    if not content.startswith(b"RIFF"):
        return content
    return content[:4] + struct.pack("<I", min(max(0, len(content) - 8), 2**32 - 1)) + content[8:]


def _pcm(data: bytes, width: int) -> npt.NDArray[Any]:
    """Return samples of 8 unsigned or 16, 24 or 32 signed bits: [samples * channels]."""
    if width == 1:
        return np.frombuffer(data, np.uint8)
    if width != 3:
        return np.frombuffer(data[: len(data) // width * width], f"<i{width}")
    widened = np.zeros((len(data) // 3, 4), np.uint8)
    widened[:, 1:] = np.frombuffer(data[: len(data) // 3 * 3], np.uint8).reshape(-1, 3)
    return widened.view("<i4").reshape(-1)


def _read_with_soundfile(path: Path) -> Clip:
    """Read a file of sound. Raises ValueError without soundfile, or if it cannot read the file."""
    try:
        import soundfile  # type: ignore[import-not-found, unused-ignore] # optional: not among our pins
    except ImportError as error:
        raise ValueError(
            f"{path} is not PCM in a WAV file, which needs soundfile: pip install soundfile, or convert the file"
        ) from error
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as sound ({error}): convert it to WAV") from error
    return Clip(samples, rate)
