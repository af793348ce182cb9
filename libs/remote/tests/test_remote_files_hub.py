"""Tables of a data set on the Hugging Face hub, by huggingface_hub from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped] # it has no types
import huggingface_hub
import numpy as np
import pytest

from libs.remote.tests.test_remote_files_urls import Lengths
from midrib.remote import embed_files
from midrib.wire import InvalidInputError

TABLES = {"data/train.csv": b"text\nab\nc\n", "data/u v.csv": b"text\nabc\nd\n"}
API = "/api/datasets/owner/set"
TREE = [
    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    for path, content in TABLES.items()
]
ANSWERS = {
    API: json.dumps({"id": "owner/set", "sha": "1" * 40}).encode(),
    f"{API}/revision/main": json.dumps({"id": "owner/set", "sha": "1" * 40}).encode(),
    f"{API}/tree/main/data": json.dumps(TREE).encode(),
    "/datasets/owner/set/resolve/main/data/train.csv": TABLES["data/train.csv"],
    "/datasets/owner/set/resolve/main/data/u%20v.csv": TABLES["data/u v.csv"],
}


class Hub(BaseHTTPRequestHandler):
    """The paths of the hub that reading a file calls; 404 for others."""

    def do_GET(self) -> None:  # noqa: N802 - the base class calls this name
        content = ANSWERS.get(self.path.partition("?")[0])
        self.send_response(404 if content is None else 200)
        self.send_header("X-Error-Code", "RepoNotFound" if content is None else "")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture()
def _hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on loopback, as the hub of huggingface_hub's file system."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield
    huggingface_hub.HfFileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "lengths"),
    [
        pytest.param("hf://datasets/owner/set/data/train.csv", [[2], [1]], id="default-revision"),
        pytest.param("hf://datasets/owner/set@main/data/train.csv", [[2], [1]], id="revision"),
        pytest.param("hf://datasets/owner/set/data/u v.csv", [[3], [1]], id="space-in-the-name"),
    ],
)
@pytest.mark.usefixtures("_hub")
def test_a_table_of_a_data_set_is_read(tmp_path: Path, url: str, lengths: list[list[int]]) -> None:
    """Rows are named by the URL."""
    embed_files(Lengths(), [url], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == lengths
    assert json.loads((tmp_path / "out.npy.json").read_text())["ids"] == [f"{url}:0", f"{url}:1"]


@pytest.mark.usefixtures("_hub")
def test_a_data_set_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The error comes before anything is embedded."""
    url = "hf://datasets/owner/other/t.csv"
    with pytest.raises(InvalidInputError, match=f"no file.* at {url}: check the URL"):
        embed_files(Lengths(), [url], tmp_path / "out.npy")
