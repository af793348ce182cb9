"""Features of frozen backbones, kept on disk: a row that was embedded once costs no further call."""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from midrib.wire import Array, InvalidInputError

_T = TypeVar("_T")
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS features (function BLOB, row BLOB, features BLOB, PRIMARY KEY (function, row)) "
    "WITHOUT ROWID"
)
_AT_ONCE: Final = 500  # of SQLite's variables in one query
_BUSY_S: Final = 5.0


class FeatureFile:
    """A SQLite file of rows, keyed by the function (revision and options) and the digest of each input row.

    Several processes may share it, DataLoader workers included; a row that was written by a killed process is either
    there in full or not at all. The features are those that the server gave, to the bit.
    """

    def __init__(self, path: str | Path, function: str, dtype: str, num_features: int) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"cache={str(path)!r}: no directory {self.path.parent}, make it first")
        self._function = hashlib.blake2b(f"{function}/{dtype}".encode(), digest_size=16).digest()
        self._dtype = np.dtype(dtype)
        self._num_features = num_features
        self._failed = False

    def features(self, rows: Array, compute: Callable[[Array], Array]) -> Array:
        """The features of rows, [rows, num_features]; compute is asked for those that are new, once for equal ones."""
        if not len(rows):
            return np.empty((0, self._num_features), self._dtype)
        digests = [_digest(row) for row in rows]
        known = self._attempt(lambda database: self._read(database, digests)) or {}
        fresh = {digest: index for index, digest in enumerate(digests) if digest not in known}
        if fresh:
            made = compute(rows[list(fresh.values())])
            known.update(zip(fresh, made, strict=True))
            values = [(self._function, digest, known[digest].tobytes()) for digest in fresh]
            self._attempt(lambda database: _insert(database, values))
        return np.stack([known[digest] for digest in digests])

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Run work on the file; return None if that fails, which costs the cache and not the caller.

        A full disk, a damaged, locked or read-only file: from the first failure on the file is left alone.
        """
        if self._failed:
            return None
        try:
            # One connection per call: SQLite's belong to one thread and do not survive a fork.
            with closing(self._open()) as database, database:
                return work(database)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._failed = True
            warnings.warn(
                f"the feature cache {str(self.path)!r} cannot be used ({error}): features are computed again; free "
                "disk space, or delete the file if it is damaged",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _read(self, database: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, Array]:
        found: dict[bytes, Array] = {}
        wanted = list(dict.fromkeys(digests))
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT row, features FROM features WHERE function = ? AND row IN ({marks})"  # noqa: S608
            for digest, data in database.execute(query, [self._function, *some]):
                if len(data) == self._num_features * self._dtype.itemsize:  # else it is damaged
                    found[digest] = np.frombuffer(data, self._dtype)
        return found

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_BUSY_S)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
        return database


def _insert(database: sqlite3.Connection, values: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", values)


def _digest(row: Array) -> bytes:
    head = f"{row.dtype.name}{row.shape}".encode()
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(row.reshape(-1).view(np.uint8).data)
    return digest.digest()
