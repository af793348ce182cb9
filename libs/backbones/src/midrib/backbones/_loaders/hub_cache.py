"""Files of the Hugging Face hub. In its cache their names are digests of their contents: a wrong bit is noticed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from midrib.backbones._errors import WeightsError

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
# Weights that are not read: those of other frameworks, and pickles beside safetensors.
_OTHER_FRAMEWORKS: Final = (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot")
_OPENVINO: Final = "openvino_"
_PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth")


def require_intact(repository: str) -> None:
    """Raise WeightsError if a cached file of a repository has another content than its name says.

    A file is read again only after it has changed. A repository that is not in the cache, such as a folder, passes.
    """
    if (file := damaged_file(repository)) is not None:
        raise WeightsError(damage(repository, file))


def hub_file(repository: str, filename: str) -> Path:
    """Return the path of a file of the Hugging Face hub, downloaded or cached.

    Raises WeightsError if it cannot be fetched, or is damaged in the cache.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsError(f"fetching {repository} needs huggingface_hub: pip install huggingface_hub") from error
    try:
        file = Path(hf_hub_download(repository, filename))
    except Exception as error:
        # The failures come from many libraries (HTTP, cache, tokens, disk) and mean the same to the caller.
        raise WeightsError(
            f"the weights of {repository} could not be fetched ({type(error).__name__}): "
            f"check the network, or pass checkpoint=PATH with a copy of {filename}, or pretrained=False"
        ) from error
    require_file_intact(repository, file)
    return file


def require_file_intact(repository: str, file: Path) -> None:
    """Raise WeightsError if a file of the cache has another content than its name says."""
    if not _is_intact(file):
        raise WeightsError(damage(repository, file))


def damage(repository: str, file: Path) -> str:
    """Return the text of the error for a damaged file."""
    return (
        f"{file} of the hub's cache, for {repository}, is damaged: its content has another digest than its name says. "
        f"Delete {_blob(file)}, so that it is downloaded again"
    )


def damaged_file(repository: str) -> Path | None:
    """Return the first cached file of a repository whose content has changed; None if all are intact."""
    files = [*_snapshot_files(repository)]
    with_safetensors = {file.parent for file in files if file.suffix == ".safetensors"}
    read = (
        file
        for file in files
        if file.suffix not in _OTHER_FRAMEWORKS
        and not file.name.startswith(_OPENVINO)
        and not (file.suffix in _PICKLES and file.parent in with_safetensors)
    )
    return next((file for file in read if not _is_intact(file)), None)


def _snapshot_files(repository: str) -> Iterator[Path]:
    """Yield the files of the version that is loaded by default, in order of their names."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # a ValueError: the name holds a NUL byte, or the file is not text
        return
    yield from sorted(path for path in (folder / "snapshots" / commit).rglob("*") if path.is_file())


def _blob(file: Path) -> Path:
    """Return the file to which a link of the cache leads: one step, because a blob may be a link into other storage.

    Raises OSError if the link cannot be read.
    """
    if not file.is_symlink():
        return file
    return Path(os.path.normpath(file.parent.resolve() / file.readlink()))


def _is_intact(file: Path) -> bool:
    """Return whether a file has its digest; also for files that cannot be read, which are errors when they are used."""
    try:
        blob, status = _blob(file), file.stat()
        return _has_its_digest(blob, (status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:
        return True


@functools.lru_cache(maxsize=1024)
def _has_its_digest(blob: Path, version: tuple[int, int, int]) -> bool:
    """Return whether a blob's name is the digest of its content; also for names that are not digests.

    version: the blob's inode, size and time of change, by which the answer is kept.
    """
    if _SHA256.fullmatch(blob.name):
        return _digest(blob, hashlib.sha256()) == blob.name
    if _SHA1.fullmatch(blob.name):  # git's digest for small files; the digest of the content alone in some mirrors
        git = hashlib.sha1(b"blob %d\0" % version[1], usedforsecurity=False)
        return blob.name in (_digest(blob, git), _digest(blob, hashlib.sha1(usedforsecurity=False)))
    return True


def _digest(file: Path, digest: _Hash) -> str:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
