"""Copies of encoded images without their metadata, for images whose metadata cannot be read but whose pixels can."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# The chunks that define a PNG's pixels. Source: the PNG specification, section 5.6.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Pillow decodes the texts of a PNG while it holds the interpreter's lock (the GIL): a few milliseconds for this many.
_FEW_BYTES = 2**20
# JPEG segments by marker: APP1 to APP13, APP15 and comments hold metadata. APP0 (JFIF) and APP14 (Adobe) define the
# colours and are kept if they are whole: their lengths in bytes, by marker.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_JPEG_COLOURS = {0xE0: 16, 0xEE: 14}
_START_OF_SCAN = 0xDA


def without_metadata(data: bytes) -> bytes | None:
    """Return a PNG or JPEG with only the parts that define its pixels; None for other formats and damaged layouts."""
    try:
        if data.startswith(_PNG):
            return _PNG + b"".join(_png_pixels(data))
        if data.startswith(_JPEG):
            return _JPEG + b"".join(_jpeg_pixels(data))
    except (struct.error, IndexError):
        pass
    return None


def without_long_texts(data: bytes) -> bytes:
    """Return a PNG without its texts if it has more than a mebibyte; any other data as they are."""
    if len(data) <= _FEW_BYTES or not data.startswith(_PNG):
        return data
    view, place = memoryview(data), len(_PNG)
    begin, kept = 0, io.BytesIO()  # not a list of parts: a file may have millions of them
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind in _PNG_TEXTS:
            kept.write(view[begin:place])
            begin = end
        place = end
    if begin == 0:
        return data
    kept.write(view[begin:])
    return kept.getvalue()


def _png_pixels(data: bytes) -> Iterator[bytes]:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        if kind in _PNG_PIXELS:
            yield data[place : place + 8] + body + struct.pack(">I", zlib.crc32(kind + body))
        elif kind == b"eXIf" and _is_intact(data, place, length):
            yield data[place : place + 12 + length]
        if len(body) < length:
            return
        place += 12 + length


def _is_intact(data: bytes, place: int, length: int) -> bool:
    """Return whether the checksum of the chunk at that place is right."""
    (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
    return zlib.crc32(data[place + 4 : place + 8 + length]) == int(checksum)


def _jpeg_pixels(data: bytes) -> Iterator[bytes]:
    """Yield the segments of a JPEG without its metadata. Raises IndexError if its markers are damaged."""
    place = len(_JPEG)
    while data[place + 1] != _START_OF_SCAN:
        if data[place] != 0xFF:
            raise IndexError(f"no marker at byte {place}")
        (length,) = struct.unpack_from(">H", data, place + 2)
        if data[place + 1] not in _JPEG_METADATA and length >= _JPEG_COLOURS.get(data[place + 1], 0):
            yield data[place : place + 2 + length]
        place += 2 + length
    yield data[place:]
