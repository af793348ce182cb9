"""Features of frozen backbones, stored on disk: a row that was embedded once costs no further call."""

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
_DIGEST_BYTES: Final = 16
_CHECK_SUM_BYTES: Final = 8
_ROWS_PER_QUERY: Final = 500  # SQLite limits the variables of a query
# Seconds that a call waits for another process's lock; and that later calls wait while the lock stays.
_LOCK_WAIT_S: Final = 5.0
_LOCK_WAIT_AGAIN_S: Final = 0.05
_LOCKED: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class FeatureFile:
    """A SQLite file of rows, keyed by the function (revision and options) and the digest of each input row.

    Several processes may share it, DataLoader workers included. A row that was being written when its process was
    killed is either complete or missing. The features equal the server's to the bit: a row whose check sum is wrong is
    computed again.
    Raises InvalidInputError if the file's directory does not exist.
    """

    def __init__(self, path: str | Path, function: str, dtype: str, num_features: int) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"cache={str(path)!r}: the directory {self.path.parent} does not exist: create it")
        self._function = hashlib.blake2b(f"{function}/{dtype}".encode(), digest_size=_DIGEST_BYTES).digest()
        self._dtype = np.dtype(dtype)
        self._num_features = num_features
        self._failed = False
        self._lock_wait_s = _LOCK_WAIT_S

    def features(self, rows: Array, compute: Callable[[Array], Array]) -> Array:
        """Return the features of rows, [rows, num_features].

        compute: called with the rows that the file does not have, each distinct row once.
        """
        if not len(rows):
            return np.empty((0, self._num_features), self._dtype)
        digests = [_digest(row) for row in rows]
        stored = self._attempt(lambda database: self._read(database, digests))
        features = stored or {}
        missing = {digest: index for index, digest in enumerate(digests) if digest not in features}
        if missing:
            computed = compute(rows[list(missing.values())])
            features.update(zip(missing, computed, strict=True))
            values = [(self._function, digest, _stored(digest, features[digest])) for digest in missing]
            if stored is not None:  # else another process locks the file, or it cannot be used
                self._attempt(lambda database: _insert(database, values))
        return np.stack([features[digest] for digest in digests])

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Run work on the file. Return None if that fails, which must never fail the caller.

        A lock that another process holds for too long costs this call. A full disk, or a damaged or read-only file,
        switches the cache off.
        """
        if self._failed:
            return None
        try:
            # One connection per call: SQLite's belong to one thread and do not survive a fork.
            with closing(self._open()) as database, database:
                result = work(database)
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            self._note(error)
            return None
        self._lock_wait_s = _LOCK_WAIT_S
        return result

    def _note(self, error: Exception) -> None:
        """Warn once of a failure. While a lock stays, later calls wait for it only briefly."""
        locked = getattr(error, "sqlite_errorcode", None) in _LOCKED
        if locked and self._lock_wait_s == _LOCK_WAIT_S:
            text = f"is locked ({error}): features are computed until another process unlocks it"
            warnings.warn(f"the feature cache {str(self.path)!r} {text}", RuntimeWarning, stacklevel=4)
        if not locked:
            text = (
                f"cannot be used ({error}): features are computed; free disk space, or delete the file if it is damaged"
            )
            warnings.warn(f"the feature cache {str(self.path)!r} {text}", RuntimeWarning, stacklevel=4)
        self._failed = not locked
        self._lock_wait_s = _LOCK_WAIT_AGAIN_S

    def _read(self, database: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, Array]:
        features: dict[bytes, Array] = {}
        distinct = list(dict.fromkeys(digests))
        for start in range(0, len(distinct), _ROWS_PER_QUERY):
            queried = distinct[start : start + _ROWS_PER_QUERY]
            marks = ",".join("?" * len(queried))
            query = f"SELECT row, features FROM features WHERE function = ? AND row IN ({marks})"  # noqa: S608
            for digest, data in database.execute(query, [self._function, *queried]):
                values = _values(digest, data)
                if values is not None and len(values) == self._num_features * self._dtype.itemsize:
                    features[digest] = np.frombuffer(values, self._dtype)
        return features

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=self._lock_wait_s)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
        return database


def _insert(database: sqlite3.Connection, values: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", values)


def _stored(digest: bytes, features: Array) -> bytes:
    """Return the bytes of one row of features [num_features], and behind them their check sum."""
    values: bytes = features.tobytes()
    return values + _check_sum(digest, values)


def _values(digest: bytes, data: object) -> bytes | None:
    """Return the bytes of features without their check sum; None if the file is damaged there."""
    if not isinstance(data, bytes):
        return None
    values = data[:-_CHECK_SUM_BYTES]
    return values if data[-_CHECK_SUM_BYTES:] == _check_sum(digest, values) else None


def _check_sum(digest: bytes, values: bytes) -> bytes:
    """Return the check sum of a row's features. SQLite notices damage to its own structures only."""
    return hashlib.blake2b(values, key=digest, digest_size=_CHECK_SUM_BYTES).digest()


def _digest(row: Array) -> bytes:
    # Processors have instructions for SHA-256: twice as fast as BLAKE2b, and a cached epoch is mostly this.
    digest = hashlib.sha256(f"{row.dtype.name}{row.shape}".encode())
    digest.update(row.reshape(-1).view(np.uint8).data)
    return digest.digest()[:_DIGEST_BYTES]
