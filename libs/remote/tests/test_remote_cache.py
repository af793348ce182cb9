"""The cache of features asks once for each row, and never mixes functions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from midrib.remote._torch import cache as cache_module
from midrib.remote._torch.cache import FeatureFile
from midrib.wire import Array, InvalidInputError


class Counting:
    """A function of rows that records its arguments."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, rows: Array) -> Array:
        self.asked.append(rows[:, 0].tolist())
        return np.stack([rows[:, 0], rows[:, 0] * 2], axis=1)


def rows(*values: float, dtype: str = "f4") -> Array:
    return np.array(values, dtype)[:, None]


def test_only_new_rows_are_computed(tmp_path: Path) -> None:
    """Known rows come from the file, in their place; equal ones are asked once."""
    compute, cache = Counting(), FeatureFile(tmp_path / "c.db", "revision", "float32", 2)
    cache.features(rows(1, 2, 2), compute)
    got = cache.features(rows(3, 2, 1), compute)
    assert compute.asked == [[1.0, 2.0], [3.0]]
    assert got.tolist() == [[3, 6], [2, 4], [1, 2]]


def test_a_second_process_finds_them(tmp_path: Path) -> None:
    """The file is the cache: another one over it makes no calls."""
    FeatureFile(tmp_path / "c.db", "revision", "float32", 2).features(rows(1, 2), Counting())
    compute = Counting()
    FeatureFile(tmp_path / "c.db", "revision", "float32", 2).features(rows(2, 1), compute)
    assert compute.asked == []


@pytest.mark.parametrize(
    ("function", "dtype"),
    [pytest.param("other", "float32", id="revision"), pytest.param("revision", "float16", id="dtype")],
)
def test_functions_do_not_share_rows(tmp_path: Path, function: str, dtype: str) -> None:
    """Nothing of another revision or element type is ever given out."""
    FeatureFile(tmp_path / "c.db", "revision", "float32", 2).features(rows(1), Counting())
    compute = Counting()
    FeatureFile(tmp_path / "c.db", function, dtype, 2).features(rows(1), compute)
    assert compute.asked == [[1.0]]


def test_rows_of_equal_bytes_and_another_type_differ(tmp_path: Path) -> None:
    """Type and shape belong to the digest: 0 as a float is not 0 as an integer."""
    compute, cache = Counting(), FeatureFile(tmp_path / "c.db", "revision", "float32", 2)
    cache.features(rows(0), compute)
    cache.features(rows(0, dtype="i4"), compute)
    assert len(compute.asked) == 2


def test_an_empty_batch_is_not_computed(tmp_path: Path) -> None:
    """An empty batch has its width all the same."""
    compute = Counting()
    got = FeatureFile(tmp_path / "c.db", "r", "float32", 2).features(np.empty((0, 1), "f4"), compute)
    assert (got.shape, compute.asked) == ((0, 2), [])


def test_a_missing_directory_is_an_error_at_construction(tmp_path: Path) -> None:
    """Not after the first epoch."""
    with pytest.raises(InvalidInputError, match="does not exist: create it"):
        FeatureFile(tmp_path / "none" / "c.db", "r", "float32", 2)


@pytest.mark.parametrize("cut", [pytest.param(100, id="cut-short"), pytest.param(0, id="no-database")])
def test_a_damaged_file_costs_the_cache_only(tmp_path: Path, cut: int) -> None:
    """The features are computed, with one warning that names the file."""
    path = tmp_path / "c.db"
    FeatureFile(path, "r", "float32", 2).features(rows(1), Counting())
    path.write_bytes(path.read_bytes()[:cut] + b"damage" * 1000)
    cache = FeatureFile(path, "r", "float32", 2)
    with pytest.warns(RuntimeWarning, match="c.db"):
        assert cache.features(rows(1, 2), Counting()).tolist() == [[1, 2], [2, 4]]
    assert cache.features(rows(3), Counting()).tolist() == [[3, 6]]


def test_an_unwritable_place_costs_the_cache_only(tmp_path: Path) -> None:
    """If a folder has the file's name, the features are computed."""
    (tmp_path / "c.db").mkdir()
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        got = FeatureFile(tmp_path / "c.db", "r", "float32", 2).features(rows(1), Counting())
    assert got.tolist() == [[1, 2]]


def test_a_locked_file_costs_the_calls_of_that_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning; once the lock is gone the cache is used again."""
    monkeypatch.setattr(cache_module, "_LOCK_WAIT_S", 0.1)
    compute, cache = Counting(), FeatureFile(tmp_path / "c.db", "r", "float32", 2)
    cache.features(rows(1), compute)
    with closing(sqlite3.connect(tmp_path / "c.db")) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(RuntimeWarning, match="is locked") as warned:
            assert [cache.features(rows(2), compute).tolist() for _ in range(2)] == [[[2, 4]]] * 2
        assert len(warned) == 1
    cache.features(rows(1, 2), compute)
    assert cache.features(rows(1, 2), compute).tolist() == [[1, 2], [2, 4]]
    assert compute.asked == [[1.0], [2.0], [2.0], [2.0]]


def test_a_lock_is_waited_for_five_seconds_at_most() -> None:
    """A training step must not wait longer for a cache."""
    assert cache_module._LOCK_WAIT_S <= 5


@pytest.mark.parametrize(
    "stored",
    [None, 5, "x" * 8, b"1", b"\xff" * 16, b"\0" * 8],
    ids=["null", "number", "text", "short", "other-values", "without-check-sum"],
)
def test_a_damaged_row_is_computed_again(tmp_path: Path, stored: object) -> None:
    """It is neither an error nor given out: SQLite does not notice that a value has changed."""
    cache = FeatureFile(tmp_path / "c.db", "revision", "float32", 2)
    cache.features(rows(1, 2), Counting())
    with closing(sqlite3.connect(tmp_path / "c.db")) as database, database:
        database.execute("UPDATE features SET features = ?", (stored,))
    compute = Counting()
    assert cache.features(rows(1, 2), compute).tolist() == [[1, 2], [2, 4]]
    assert cache.features(rows(1, 2), compute).tolist() == [[1, 2], [2, 4]]
    assert compute.asked == [[1.0, 2.0]]


def test_a_bit_that_flips_on_the_disk_gives_no_wrong_row(tmp_path: Path) -> None:
    """Every bit of the row's first feature, wherever the file holds it."""
    path = tmp_path / "c.db"
    cache = FeatureFile(path, "revision", "float32", 2)
    cache.features(rows(3), Counting())
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    at = data.rindex(np.array([3, 6], "f4").tobytes())
    for bit in range(32):
        damaged = bytearray(data)
        damaged[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert FeatureFile(path, "revision", "float32", 2).features(rows(3), Counting()).tolist() == [[3, 6]]
        path.with_name("c.db-wal").unlink(missing_ok=True)
        path.with_name("c.db-shm").unlink(missing_ok=True)
