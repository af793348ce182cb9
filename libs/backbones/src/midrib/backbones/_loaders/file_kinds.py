"""Name the fault of a file that does not hold weights: a pointer, a web page, an archive, a cut or a foreign file."""

from __future__ import annotations

import codecs
import re
import string
import tarfile
import zipfile
from pathlib import Path
from typing import Final

_LFS_POINTER: Final = b"version https://git-lfs"
_SNIFFED_BYTES: Final = 512
_PRINTABLE: Final = frozenset(string.printable.encode())
_ZIP: Final = b"PK"
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
_SAVE: Final = "in the program that wrote it, save module.state_dict() as safetensors"
# torch names the class that it refuses after these words.
_REFUSED_CLASS: Final = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)")


def looks_like(path: Path) -> str | None:
    """Return the remedy for a file that is not weights, such as a web page; None if its kind is unknown."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_SNIFFED_BYTES)
    except OSError as error:
        return f"{error.strerror}, check the file and your rights"
    if start.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, run `git lfs pull` where it was cloned"
    if not start:
        return "it is empty, download it again"
    if start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<" or all(byte in _PRINTABLE for byte in start):
        return "it holds text, such as the error page of a failed download: download it again"
    if path.suffix == ".safetensors":
        return "it is damaged or cut short, download it again"
    return _archive(path, start)


def refused_class(error: Exception) -> str | None:
    """Return the remedy for a pickle with objects of other classes than tensors; None for other errors of torch."""
    match = _REFUSED_CLASS.search(str(error))
    return None if match is None else f"it holds an object of class {match[1]}: {_SAVE}"


def _archive(path: Path, start: bytes) -> str | None:
    """Return the remedy for archives and compressed files; torch's own files are archives too."""
    if start.startswith(_COMPRESSED):
        return "it is compressed, unpack it first"
    if start.startswith(_ZIP):
        return _zip(path)
    return "it is an archive, unpack it first" if tarfile.is_tarfile(path) else None


def _zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "it is damaged or cut short, download it again"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return f"it is a TorchScript program: {_SAVE}"
    if any(name.endswith("archive_format") for name in names):
        return f"it is an exported program (torch.export): {_SAVE}"
    return (
        None
        if any(name.endswith("data.pkl") for name in names)
        else f"it is an archive of {names[:1]}, unpack it first"
    )
