"""Features of a frozen backbone on disk, so that the second epoch does not run it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_DIGEST_BYTES = 32
_CHECKSUM = "crc32"

Inputs: TypeAlias = Tensor | Sequence[str]


def row_digests(inputs: Inputs) -> list[bytes]:
    """Return the sha-256 of every row, over its element type, its shape and its bytes.

    inputs: [batch, ...], or strings.  Rows of integer ids are hashed without their trailing zeros, because the
    padding of a text depends on its batch.
    """
    if not isinstance(inputs, Tensor):
        return [hashlib.sha256(f"text {text}".encode()).digest() for text in inputs]
    rows = inputs.detach().cpu().contiguous()
    return [_digest(_unpadded(row)) for row in rows]


def _unpadded(row: Tensor) -> Tensor:
    if row.dim() != 1 or row.dtype != torch.int64:
        return row
    ids = row.nonzero()
    return row[: int(ids[-1]) + 1] if len(ids) else row[:0]


def _digest(row: Tensor) -> bytes:
    digest = hashlib.sha256(f"{row.dtype} {tuple(row.shape)}".encode())
    digest.update(row.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _selected(inputs: Inputs, rows: list[int]) -> Inputs:
    return inputs[rows] if isinstance(inputs, Tensor) else [inputs[row] for row in rows]


class FeatureCache:
    """A folder of features, keyed by the revision that made them and the digest of their input.

    Correct only if equal inputs have equal features, as with a frozen backbone in eval mode. Inputs that are augmented
    at random never repeat, and only fill the disk.
    path: the folder; processes may share it.  max_bytes: the limit of the folder; when it is reached, shards of other
    revisions are removed, oldest first, and after that nothing more is stored (evicting rows of this revision would
    remove those that the next epoch needs first).  shard_rows: rows in memory before they are written as one
    safetensors file.
    hits, misses: the numbers of rows found and computed so far.  full: whether nothing more is stored.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 4 << 30, shard_rows: int = 512) -> None:
        """Open the cache. Raises ValueError for a limit below 1."""
        if max_bytes < 1 or shard_rows < 1:
            raise ValueError(
                f"a feature cache needs max_bytes and shard_rows of at least 1, got max_bytes={max_bytes} and "
                f"shard_rows={shard_rows}"
            )
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.shard_rows = shard_rows
        self.hits = 0
        self.misses = 0
        self.full = False
        self._revisions: dict[str, _Revision] = {}

    def features(self, revision: str, inputs: Inputs, compute: Callable[[Any], Tensor]) -> Tensor:
        """Return the features of every row of inputs; compute is called once, on the rows that the cache lacks.

        inputs: [batch, ...], or strings.  compute: maps some of them to [rows, ...].  Returns the batch's rows in
        order, on the device of the inputs.
        """
        if len(inputs) == 0:
            return compute(inputs)
        store = self._store(revision)
        digests = row_digests(inputs)
        features = store.find(digests)
        new = {digest: row for row, digest in enumerate(digests) if digest not in features}
        if new:
            computed = compute(_selected(inputs, list(new.values())))
            features.update(zip(new, computed.detach().cpu(), strict=True))
            store.add({digest: features[digest] for digest in new})
        self.hits += len(digests) - len(new)
        self.misses += len(new)
        rows = torch.stack([features[digest] for digest in digests])
        return rows.to(inputs.device) if isinstance(inputs, Tensor) else rows

    def flush(self) -> None:
        """Write the rows in memory, so that other processes and the next run find them."""
        for store in self._revisions.values():
            store.flush()

    def _store(self, revision: str) -> _Revision:
        if revision not in self._revisions:
            self._revisions[revision] = _Revision(self, self.path / revision)
        return self._revisions[revision]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open files: a copy in another process opens them again."""
        self.flush()
        return {**self.__dict__, "_revisions": {}}


class _Revision:
    """The rows of one revision: shards that are mapped into memory, and those not written yet."""

    def __init__(self, cache: FeatureCache, folder: Path) -> None:
        self._cache = cache
        self._folder = folder
        self._shards: dict[str, Tensor | None] = {}
        self._rows: dict[bytes, tuple[Tensor, int]] = {}
        self._pending: dict[bytes, Tensor] = {}

    def find(self, digests: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Return the features, [num_features] each, of those digests that the cache holds."""
        if any(digest not in self._rows and digest not in self._pending for digest in digests):
            self._open_new_shards()
        rows = {}
        for digest in digests:
            if digest in self._pending:
                rows[digest] = self._pending[digest]
            elif digest in self._rows:
                features, row = self._rows[digest]
                rows[digest] = features[row]
        return rows

    def add(self, rows: dict[bytes, Tensor]) -> None:
        """Keep features [num_features] by digest in memory, and write a shard when there are enough.

        A full cache keeps nothing.
        """
        if self._cache.full:
            return
        self._pending.update(rows)
        if len(self._pending) >= self._cache.shard_rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows in memory as one shard; if that fails, warn and store nothing from then on."""
        if not self._pending:
            return
        rows, self._pending = self._pending, {}
        try:
            self._write(rows)
        except OSError as error:
            self._cache.full = True
            warnings.warn(
                f"the feature cache {self._cache.path} cannot be written and stores no more: {error}; free some space, "
                "or pass another folder",
                stacklevel=2,
            )

    def _write(self, rows: dict[bytes, Tensor]) -> None:
        digests = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, _DIGEST_BYTES)
        features = torch.stack(list(rows.values())).contiguous()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{uuid.uuid4().hex}.safetensors"
        draft = self._folder / f".{name}.part"
        checksum = {_CHECKSUM: str(_checksum(digests, features))}
        shard = save({"digests": digests, "features": features}, metadata=checksum)
        with _locked(draft) as file:
            try:
                file.write(shard)
                file.flush()
                if self._has_room(len(shard)):
                    draft.replace(self._folder / name)  # so that readers see complete shards only
            finally:
                draft.unlink(missing_ok=True)
        self._open_new_shards()

    def _has_room(self, size: int) -> bool:
        _remove_abandoned_drafts(self._cache.path)
        shards = sorted(_files_of(self._cache.path, "*.safetensors"), key=lambda shard: shard[1].st_mtime)
        same_revision = sum(stat.st_size for shard, stat in shards if shard.parent == self._folder)
        total = sum(stat.st_size for _, stat in shards) + size
        for shard, stat in shards:
            # Other revisions are removed only if that makes enough room.
            if total > self._cache.max_bytes >= same_revision + size and shard.parent != self._folder:
                shard.unlink(missing_ok=True)
                total -= stat.st_size
        if total <= self._cache.max_bytes:
            return True
        self._cache.full = True
        warnings.warn(
            f"the feature cache {self._cache.path} is full (max_bytes={self._cache.max_bytes}): rows that it does not "
            "hold are computed every time; raise max_bytes",
            stacklevel=2,
        )
        return False

    def _open_new_shards(self) -> None:
        if not self._folder.is_dir():
            return
        for shard in self._folder.glob("*.safetensors"):
            if shard.name not in self._shards:
                self._shards[shard.name] = self._open(shard)

    def _open(self, shard: Path) -> Tensor | None:
        try:
            with safe_open(shard, framework="pt") as file:
                stored = file.get_tensor("digests")
                features: Tensor = file.get_tensor("features")
                recorded = (file.metadata() or {}).get(_CHECKSUM)
        except FileNotFoundError:  # another process made room
            return None
        except (SafetensorError, OSError) as error:
            warnings.warn(f"the feature cache leaves out {shard}, which cannot be read: {error}", stacklevel=2)
            return None
        if recorded is not None and recorded != str(_checksum(stored, features)):
            warnings.warn(f"the feature cache leaves out {shard}, which is damaged: its checksum differs", stacklevel=2)
            return None
        digests = stored.numpy().tobytes()
        for row in range(len(features)):
            self._rows[digests[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES]] = (features, row)
        return features


def _locked(draft: Path) -> BinaryIO:
    """Create a file and lock it, so that no other process removes it as abandoned.

    Another process may remove it before it is locked: then it is created again.
    """
    while True:
        file = draft.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _checksum(*tensors: Tensor) -> int:
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _remove_abandoned_drafts(path: Path) -> None:
    """Remove the drafts of processes that ended while they wrote."""
    for draft, _ in _files_of(path, ".*.part"):
        try:
            with draft.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):  # in use, or finished meanwhile
            continue


def _files_of(path: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    files = []
    for file in path.rglob(pattern):
        try:
            files.append((file, file.stat()))
        except FileNotFoundError:  # another process made room
            continue
    return files
