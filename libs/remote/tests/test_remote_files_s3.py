"""Inputs and outputs in buckets of a real S3 server, by s3fs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.remote.tests.test_remote_files_urls import Lengths
from midrib.remote import embed_files
from midrib.wire import InvalidInputError, PermissionDeniedError

# They need an older python-dateutil and an older multidict than the rest of the repository is tested with.
s3fs = pytest.importorskip("s3fs", reason="it opens s3:// and needs other versions than those that are pinned")
moto = pytest.importorskip("moto.server", reason="it is the S3 server and needs other versions than those pinned")


@pytest.fixture()
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 server on loopback, with an empty bucket, data-bucket."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("data-bucket")
    yield filesystem
    filesystem.rm("data-bucket", recursive=True)
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("s3://data-bucket/d/t.csv", id="s3"),
        pytest.param("s3a://data-bucket/d/t.csv", id="s3a"),
        pytest.param("s3://data-bucket/d/ü ber%20x.csv", id="name-with-space-and-percent"),
    ],
)
def test_a_table_is_read(bucket: Any, tmp_path: Path, url: str) -> None:
    """Rows are named by the URL."""
    bucket.pipe(url.replace("s3a://", "s3://"), b"text\nab\nc\n")
    embed_files(Lengths(), [url], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[2], [1]]
    assert json.loads((tmp_path / "out.npy.json").read_text())["ids"] == [f"{url}:0", f"{url}:1"]


def test_a_folder_gives_its_images_in_order(bucket: Any, tmp_path: Path) -> None:
    """Of every depth; other files and macOS's metadata are left out."""
    for name in ("b/2.png", "a.JPG", "notes.md", "._a.JPG"):
        bucket.pipe(f"data-bucket/img/{name}", name.encode())
    embed_files(Lengths(), ["s3://data-bucket/img"], tmp_path / "out.npy")
    beside = json.loads((tmp_path / "out.npy.json").read_text())
    assert beside["ids"] == ["s3://data-bucket/img/a.JPG", "s3://data-bucket/img/b/2.png"]


def test_an_output_is_copied_into_the_bucket(bucket: Any, tmp_path: Path) -> None:
    """With the files beside it."""
    (tmp_path / "t.jsonl").write_text('{"text": "abc"}\n{"text": null}\n')
    embed_files(Lengths(), [tmp_path / "t.jsonl"], "s3://data-bucket/out/o.npy")
    names = ["data-bucket/out/o.npy", "data-bucket/out/o.npy.bad.jsonl", "data-bucket/out/o.npy.json"]
    assert sorted(bucket.find("data-bucket/out")) == names


def test_a_run_notices_another_object(bucket: Any, tmp_path: Path) -> None:
    """An object that was replaced between two runs is not mixed with the old one."""
    bucket.pipe("data-bucket/t.csv", b"text\nab\nc\n")
    with pytest.raises(PermissionDeniedError, match="lacks the scope"):
        embed_files(Lengths(calls=1), ["s3://data-bucket/t.csv"], tmp_path / "out.npy", chunk_items=1)
    bucket.pipe("data-bucket/t.csv", b"text\nabc\n")
    bucket.invalidate_cache()
    with pytest.raises(InvalidInputError, match="the inputs changed since .* was begun"):
        embed_files(Lengths(), ["s3://data-bucket/t.csv"], tmp_path / "out.npy")


@pytest.mark.parametrize("url", ["s3://data-bucket/nothing.csv", "s3://no-such-bucket/t.csv"])
def test_a_missing_object_or_bucket_is_named(bucket: Any, tmp_path: Path, url: str) -> None:
    """The error comes before anything is embedded."""
    with pytest.raises(InvalidInputError, match=f"no file.* at {url}: check the URL"):
        embed_files(Lengths(), [url], tmp_path / "out.npy")


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_named_before_the_backbone_loads(tmp_path: Path) -> None:
    """The error does not wait until all items are embedded."""
    (tmp_path / "t.txt").write_text("abc\n")
    with pytest.raises(
        InvalidInputError, match="output s3://nowhere/o.npy: bucket 'nowhere' does not exist, create it"
    ):
        embed_files(lambda: pytest.fail("the backbone was loaded"), [tmp_path / "t.txt"], "s3://nowhere/o.npy")
