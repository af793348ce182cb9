"""Buckets by the schemes of S3 and Google Cloud Storage; a file system in memory replaces the stores.

Real servers of both protocols are in test_remote_files_s3.py and test_remote_files_gcs.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec  # type: ignore[import-untyped] # it has no types
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped] # it has no types
from fsspec.registry import _registry  # type: ignore[import-untyped] # it has no types

from libs.remote.tests.test_remote_files_urls import Lengths
from midrib.remote import embed_files
from midrib.wire import InvalidInputError, PermissionDeniedError

SCHEMES = ("s3", "s3a", "gs", "gcs")


class Store(MemoryFileSystem):  # type: ignore[misc] # it has no types
    """A store whose paths start with the bucket, as those of s3fs and gcsfs do."""

    protocol = SCHEMES
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rpartition("://")[2].strip("/")


@pytest.fixture(params=SCHEMES)
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket, for each scheme."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(_registry, request.param, Store)
    Store.store.clear()
    Store.pseudo_dirs[:] = [""]
    Store.clear_instance_cache()
    filesystem = fsspec.filesystem(request.param)
    filesystem.mkdir("data-bucket")
    yield f"{request.param}://data-bucket"
    Store.clear_instance_cache()


def put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(content)


def test_a_table_in_a_bucket_is_read(bucket: str, tmp_path: Path) -> None:
    """Rows are named by the URL."""
    put(f"{bucket}/d/t.csv", b"text\nab\nc\n")
    embed_files(Lengths(), [f"{bucket}/d/t.csv"], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[2], [1]]
    ids = json.loads((tmp_path / "out.npy.json").read_text())["ids"]
    assert ids == [f"{bucket}/d/t.csv:0", f"{bucket}/d/t.csv:1"]


def test_a_folder_in_a_bucket_gives_its_images(bucket: str, tmp_path: Path) -> None:
    """Of every depth, in order; other files and macOS's metadata are left out."""
    for name in ("b/2.png", "a.JPG", "notes.md", "._a.JPG"):
        put(f"{bucket}/img/{name}", name.encode())
    embed_files(Lengths(), [f"{bucket}/img"], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[5], [7]]


def test_an_output_is_copied_into_the_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files beside it, and no folder is made of the scheme's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"text": "abc"}\n{"text": null}\n')
    embed_files(Lengths(), [tmp_path / "t.jsonl"], f"{bucket}/out/o.npy")
    written = sorted(fsspec.filesystem(bucket.partition(":")[0]).find("data-bucket/out"))
    assert written == [f"data-bucket/out/o.npy{suffix}" for suffix in ("", ".bad.jsonl", ".json")]
    assert {path.name for path in tmp_path.iterdir()} <= {"t.jsonl", "cache"}


def test_a_run_does_not_resume_after_an_object_was_replaced(bucket: str, tmp_path: Path) -> None:
    """The rows of the old object are not mixed with those of the new one."""
    put(f"{bucket}/t.csv", b"text\nab\nc\n")
    with pytest.raises(PermissionDeniedError, match="lacks the scope"):
        embed_files(Lengths(calls=1), [f"{bucket}/t.csv"], tmp_path / "out.npy", chunk_items=1)
    put(f"{bucket}/t.csv", b"text\nabc\n")
    with pytest.raises(InvalidInputError, match="the inputs changed since .* was begun"):
        embed_files(Lengths(), [f"{bucket}/t.csv"], tmp_path / "out.npy")


def test_a_bucket_that_does_not_exist_is_named_before_the_backbone_loads(bucket: str, tmp_path: Path) -> None:
    """The error does not wait until all items are embedded."""
    (tmp_path / "t.txt").write_text("abc\n")
    url = bucket.replace("data-bucket", "nowhere/o.npy")
    with pytest.raises(InvalidInputError, match=f"output {url}: bucket .*nowhere' does not exist, create it"):
        embed_files(lambda: pytest.fail("the backbone was loaded"), [tmp_path / "t.txt"], url)


def test_an_object_that_does_not_exist_is_named(bucket: str, tmp_path: Path) -> None:
    """The error shows the URL of the object."""
    with pytest.raises(InvalidInputError, match=f"no file or folder at {bucket}/none.csv"):
        embed_files(Lengths(), [f"{bucket}/none.csv"], tmp_path / "out.npy")
