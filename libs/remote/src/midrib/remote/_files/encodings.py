"""Text files as people have them: UTF-8 and UTF-16, with and without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final, TextIO

from midrib.wire import InvalidInputError

_MARKS: Final = (  # UTF-32's first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SAMPLE_BYTES: Final = 4096


def open_text(path: Path, *, newline: str | None = None) -> TextIO:
    """Open a text file in the encoding that its first bytes show.

    Bytes that are not UTF-8 become lone surrogates, which spoil only their own row.
    Raises InvalidInputError if the file is binary, or text in an encoding that is not recognised.
    """
    encoding = _encoding(path)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    return path.open(encoding=encoding, errors=errors, newline=newline)


def is_utf8(text: str) -> bool:
    """Return whether the text can be written as UTF-8: it holds no lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped, so that every format can hold it."""
    return text if is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" not in sample:
        return "utf-8"
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) // 8 and min(even, odd) < max(even, odd) // 8:
        return "utf-16-be" if even > odd else "utf-16-le"
    raise InvalidInputError(
        f"{path} holds NUL bytes, so it is not text in UTF-8 or UTF-16: save it with encoding UTF-8"
    )
