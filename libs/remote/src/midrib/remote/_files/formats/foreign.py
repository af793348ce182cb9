"""Files that are not tables although they are named like one: pointers of Git LFS and compressed files."""

from __future__ import annotations

from typing import Final

from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError

COMPRESSED_SUFFIXES: Final = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".lz4"})
_ZIP: Final = b"PK\x03\x04"
# The letters before the level could begin a text.
_BZIP2: Final = tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))
_REMEDIES: Final = {
    b"version https://git-lfs": "is a Git LFS pointer: run `git lfs pull` where it was cloned",
    **dict.fromkeys(
        (b"\x1f\x8b", *_BZIP2, b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", _ZIP),
        "is compressed: unpack it first",
    ),
}
_SAMPLE_BYTES: Final = 64


def refuse_foreign(file: LocalFile) -> None:
    """Raise InvalidInputError for a pointer or a compressed file, OSError if the file cannot be read."""
    with file.path.open("rb") as opened:
        sample = opened.read(_SAMPLE_BYTES)
    for start, remedy in _REMEDIES.items():
        if sample.startswith(start) and not (start == _ZIP and file.suffix == ".npy"):  # .npz has its own error
            raise InvalidInputError(f"{file.name} {remedy}")
