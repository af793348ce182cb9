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
_CHUNK: Final = 1 << 20
_PRINTABLE: Final = frozenset(string.printable.encode())
_ZIP: Final = b"PK"
_OTHER_FORMATS: Final = {
    b"GGUF": "it is a GGUF file, whose weights are quantised: give the model from which it was made",
    b"\x89HDF": "it is an HDF5 file, as of Keras: convert it to safetensors",
    b"\x93NUMPY": "it is one array of numpy without a name: save a state dict as safetensors",
}
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
    if not start.strip(b"\0"):
        return "it begins with zeros only, as an unfinished download: download it again"
    if (
        remedy := next((remedy for mark, remedy in _OTHER_FORMATS.items() if start.startswith(mark)), None)
    ) is not None:
        return remedy
    if path.suffix == ".safetensors":
        return "it is damaged or cut short, download it again"
    return _archive(path, start)


def damaged_member(path: Path) -> str | None:
    """Return the first member of a torch file whose content does not have its checksum; None if all have.

    Files of the old kind, which are not archives, have no checksums. torch.save can be configured to write none
    either: they are then 0. Raises OSError or BadZipFile if the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return next((info.filename for info in archive.infolist() if info.CRC and not _is_intact(archive, info)), None)


def _is_intact(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    """Return whether a member's bytes have its checksum, which zipfile compares at the member's end."""
    try:
        with archive.open(info) as member:
            while member.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


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
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "it is damaged or cut short, download it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return f"it is a TorchScript program: {_SAVE}"
    if any(name.endswith("archive_format") for name in names):
        return f"it is an exported program (torch.export): {_SAVE}"
    return (
        None
        if any(name.endswith("data.pkl") for name in names)
        else f"it is an archive of {names[:1]}, unpack it first"
    )
