"""Inputs and outputs behind URLs: fsspec's memory file system replaces a bucket."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped] # it has no types
import numpy as np
import pytest

from midrib.remote import embed_files
from midrib.wire import Array, InvalidInputError, PermissionDeniedError, UnavailableError


class Lengths:
    """Embeds a text or bytes as its length; only so many calls, one after the other, if a number is given."""

    name, revision, num_features = "test/lengths", "r1", 1
    concurrency = 1

    def __init__(self, calls: float = math.inf) -> None:
        self._calls_left = calls

    def __call__(self, kind: str, values: list[Any]) -> Array:
        self._calls_left -= 1
        if self._calls_left < 0:
            raise PermissionDeniedError("the token lacks the scope embed")
        return np.array([[len(value)] for value in values], np.float32)


@pytest.fixture()
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty memory file system; the user's cache folder is the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()


def test_a_table_behind_a_url_is_read(bucket: Any, tmp_path: Path) -> None:
    """Rows without ids are named by the URL."""
    bucket.pipe("/data/t.csv", b"text\nab\nc\n")
    embed_files(Lengths(), ["memory://data/t.csv"], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[2], [1]]
    beside = json.loads((tmp_path / "out.npy.json").read_text())
    assert beside["ids"] == ["memory://data/t.csv:0", "memory://data/t.csv:1"]


def test_a_folder_behind_a_url_gives_its_images_in_order(bucket: Any, tmp_path: Path) -> None:
    """Of every depth; other files and macOS's metadata are left out."""
    for name in ("b/2.png", "a.JPG", "notes.md", "._a.JPG"):
        bucket.pipe(f"/data/{name}", name.encode())
    embed_files(Lengths(), ["memory://data"], tmp_path / "out.npy")
    beside = json.loads((tmp_path / "out.npy.json").read_text())
    assert beside["ids"] == ["memory:///data/a.JPG", "memory:///data/b/2.png"]
    assert np.load(tmp_path / "out.npy").tolist() == [[5], [7]]


def test_a_local_url_is_a_local_file(bucket: Any, tmp_path: Path) -> None:
    """fsspec opens file:// URLs as it opens the others."""
    (tmp_path / "t.txt").write_text("abc\n")
    embed_files(Lengths(), [f"file://{tmp_path}/t.txt"], f"file://{tmp_path}/out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[3]]


def test_an_output_behind_a_url_is_copied_there(bucket: Any, tmp_path: Path) -> None:
    """The files beside the output are copied too, and nothing stays in the cache."""
    (tmp_path / "t.jsonl").write_text('{"text": "abc"}\n{"text": null}\n')
    embed_files(Lengths(), [tmp_path / "t.jsonl"], "memory://data/out.npy")
    assert sorted(bucket.find("/data")) == ["/data/out.npy", "/data/out.npy.bad.jsonl", "/data/out.npy.json"]
    assert np.load(io.BytesIO(bucket.cat("/data/out.npy"))).tolist() == [[3]]
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_run_with_urls_resumes(bucket: Any, tmp_path: Path) -> None:
    """Its chunks are in the cache folder; a changed input is found."""
    bucket.pipe("/data/t.txt", b"ab\nc\n")
    with pytest.raises(PermissionDeniedError, match="lacks the scope"):
        embed_files(Lengths(calls=1), ["memory://data/t.txt"], "memory://data/out.npy", chunk_items=1)
    with pytest.raises(InvalidInputError, match="begun with another dtype"):
        embed_files(Lengths(), ["memory://data/t.txt"], "memory://data/out.npy", dtype="float16")
    assert embed_files(Lengths(), ["memory://data/t.txt"], "memory://data/out.npy").done == 2


def test_a_table_that_changes_behind_its_url_is_refused(bucket: Any, tmp_path: Path) -> None:
    """A remote table that changes during a run is refused as a local one is."""
    bucket.pipe("/data/t.txt", b"ab\n")

    def change() -> Lengths:
        bucket.pipe("/data/t.txt", b"abcd\n")
        return Lengths()

    with pytest.raises(InvalidInputError, match=r"t\.txt changed while it was read"):
        embed_files(change, ["memory://data/t.txt"], tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("memory://data/none.csv", "no file or folder at memory://data/none.csv", id="missing"),
        pytest.param("s3://b/t.csv", r"s3://b/t.csv needs a package .*pip install 'midrib-remote\[s3\]'", id="s3"),
        pytest.param("gs://b/t.csv", r"pip install 'midrib-remote\[gs\]'", id="gs"),
        pytest.param("typo://b/t.csv", "is of an unknown kind", id="unknown"),
    ],
)
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_url_that_cannot_be_opened_is_one_sentence(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str, side: str
) -> None:
    """The error comes before the backbone loads, and no folder with the URL's name is made."""
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("text\na\n")
    expected = "end it in" if (side, "memory" in url) == ("output", True) else message
    inputs, out = ([url], "out.npy") if side == "input" else (["t.csv"], url)
    with pytest.raises(InvalidInputError, match=expected):
        embed_files(Lengths(), inputs, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def test_without_fsspec_a_url_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the install line."""
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(InvalidInputError, match=r"hf://datasets/x/t.csv needs fsspec: .*'midrib-remote\[hf\]'"):
        embed_files(Lengths(), ["hf://datasets/x/t.csv"], tmp_path / "out.npy")


def test_a_url_that_became_a_path_is_refused(tmp_path: Path) -> None:
    """pathlib joins the two slashes: a folder `s3:` would be made."""
    (tmp_path / "t.txt").write_text("a\n")
    with pytest.raises(InvalidInputError, match="looks like a URL that became a path: pass URLs as strings"):
        embed_files(Lengths(), [tmp_path / "t.txt"], Path("s3://b/out.npy"))


def test_an_outage_of_the_store_ends_the_run(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are not bad: a later run continues."""
    bucket.pipe("/data/a.png", b"png")

    def fail(path: str) -> bytes:
        raise ConnectionError("no route")

    monkeypatch.setattr(bucket, "cat_file", fail)
    with pytest.raises(UnavailableError, match="a.png cannot be read .*ConnectionError: no route.*: check the network"):
        embed_files(Lengths(), ["memory://data"], tmp_path / "out.npy")
