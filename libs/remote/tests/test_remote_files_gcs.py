"""Inputs and outputs in buckets of a server that speaks Google Cloud Storage's protocol, by gcsfs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.remote.tests.test_remote_files_urls import Lengths
from midrib.remote import embed_files
from midrib.wire import InvalidInputError

gcsfs = pytest.importorskip("gcsfs", reason="it opens gs:// and is an extra that is not pinned")
emulator = pytest.importorskip("gcp_storage_emulator.server", reason="it is the server, and is not pinned")


@pytest.fixture()
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a server on loopback, with an empty bucket, data-bucket."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="data-bucket")
    server.start()
    host, port = server._api._httpd.socket.getsockname()  # the emulator does not say which port it chose
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem()
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_a_table_is_read(bucket: Any, tmp_path: Path, scheme: str) -> None:
    """Rows are named by the URL."""
    bucket.pipe("data-bucket/d/t.csv", b"text\nab\nc\n")
    url = f"{scheme}://data-bucket/d/t.csv"
    embed_files(Lengths(), [url], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[2], [1]]
    assert json.loads((tmp_path / "out.npy.json").read_text())["ids"] == [f"{url}:0", f"{url}:1"]


def test_a_folder_gives_its_images_in_order(bucket: Any, tmp_path: Path) -> None:
    """Of every depth; other files are left out."""
    for name in ("b/2.png", "a.JPG", "notes.md"):
        bucket.pipe(f"data-bucket/img/{name}", name.encode())
    embed_files(Lengths(), ["gs://data-bucket/img"], tmp_path / "out.npy")
    ids = json.loads((tmp_path / "out.npy.json").read_text())["ids"]
    assert ids == ["gs://data-bucket/img/a.JPG", "gs://data-bucket/img/b/2.png"]


def test_an_output_is_copied_into_the_bucket(bucket: Any, tmp_path: Path) -> None:
    """With the files beside it."""
    (tmp_path / "t.jsonl").write_text('{"text": "abc"}\n{"text": null}\n')
    embed_files(Lengths(), [tmp_path / "t.jsonl"], "gs://data-bucket/out/o.npy")
    names = ["data-bucket/out/o.npy", "data-bucket/out/o.npy.bad.jsonl", "data-bucket/out/o.npy.json"]
    assert sorted(bucket.find("data-bucket/out")) == names


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_named_before_the_backbone_loads(tmp_path: Path) -> None:
    """The error does not wait until all items are embedded."""
    (tmp_path / "t.txt").write_text("abc\n")
    with pytest.raises(
        InvalidInputError, match="output gs://nowhere/o.npy: bucket 'nowhere' does not exist, create it"
    ):
        embed_files(lambda: pytest.fail("the backbone was loaded"), [tmp_path / "t.txt"], "gs://nowhere/o.npy")


@pytest.mark.usefixtures("bucket")
def test_an_object_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The error shows the URL of the object."""
    with pytest.raises(InvalidInputError, match="no file or folder at gs://data-bucket/none.csv"):
        embed_files(Lengths(), ["gs://data-bucket/none.csv"], tmp_path / "out.npy")
