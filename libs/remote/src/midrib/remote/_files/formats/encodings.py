"""Text files in UTF-8, UTF-16 and UTF-32, with and without a byte order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final, TextIO

from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError

_MARKS: Final = (  # UTF-32's first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SAMPLE_BYTES: Final = 4096
# By which of four neighbouring bytes are mostly NUL. Letters of most scripts have code points below 65,536.
_ZEROS: Final = {
    (False, True, True, True): "utf-32-le",
    (False, False, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (True, True, False, False): "utf-32-be",
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}


def open_text(file: LocalFile, *, newline: str | None = None) -> TextIO:
    """Open a text file in the encoding that its first bytes show.

    Bytes that are not valid in it become lone surrogates, which spoil only their own row.
    Raises InvalidInputError if the file is binary, or text in an encoding that is not recognised.
    """
    encoding = _encoding(file)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    return file.path.open(encoding=encoding, errors=errors, newline=newline)


def read_lines(file: LocalFile) -> Iterator[str]:
    """Yield the lines of a text file without their ends. Raises InvalidInputError as `open_text` does."""
    with open_text(file) as lines:
        for line in lines:
            yield line.rstrip("\n")


def is_utf8(text: str) -> bool:
    """Return whether the text can be written as UTF-8: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped, so that every format can hold it."""
    return text if is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()


def _encoding(file: LocalFile) -> str:
    """Return the encoding of a file. Raises InvalidInputError if it is neither UTF-8 nor UTF-16."""
    with file.path.open("rb") as opened:
        sample = opened.read(_SAMPLE_BYTES)
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" not in sample:
        return "utf-8"
    zeros = [sample[start::4].count(0) / max(1, len(sample[start::4])) > 0.5 for start in range(4)]
    if (wide := _ZEROS.get((zeros[0], zeros[1], zeros[2], zeros[3]))) is not None:
        return wide
    if not any(zeros) and _is_utf8_start(sample):
        return "utf-8"  # a NUL is a character of UTF-8 too
    if (wide := _wide_with_few_zeros(sample)) is not None:
        return wide
    raise InvalidInputError(
        f"{file.name} holds NUL bytes, so it is not text in UTF-8 or UTF-16: save it with encoding UTF-8"
    )


def _wide_with_few_zeros(sample: bytes) -> str | None:
    """Return the kind of UTF-16 of a text whose letters have no NUL bytes, such as Chinese; None for other bytes.

    Only in the right byte order its line ends and spaces are those of ASCII, and all its characters printable.
    """
    fits = [encoding for encoding in ("utf-16-le", "utf-16-be") if _has_printable_lines(sample, encoding)]
    return fits[0] if len(fits) == 1 else None


def _has_printable_lines(sample: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return any(mark in text for mark in "\n ,") and all(sign.isprintable() or sign in "\r\n\t\u3000" for sign in text)


def _is_utf8_start(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
