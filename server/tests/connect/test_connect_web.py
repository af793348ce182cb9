"""The real @connectrpc/connect-web against a real server, in both forms of its messages.

The packages come from npm: MIDRIB_EXTERNAL=1 python -m pytest server/tests/connect/test_connect_web.py
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from midrib.server.testing import RunningServer
from midrib.v1 import backbone_pb2, embedding_pb2
from server.tests.http.calls import WORDS, embed_by_grpc, texts

pytestmark = pytest.mark.external

SCRIPT = Path(__file__).parents[1] / "external" / "calls_by_connect_web.mjs"
PACKAGES = ["@connectrpc/connect@2.2.0", "@connectrpc/connect-web@2.2.0", "@bufbuild/protobuf@2.17.0"]


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages and the program. Skips unless MIDRIB_EXTERNAL=1 asks for them."""
    if os.environ.get("MIDRIB_EXTERNAL") != "1" or shutil.which("npm") is None:
        pytest.skip("installs connect-web from npm: MIDRIB_EXTERNAL=1 runs it, and needs node and npm")
    folder = tmp_path_factory.mktemp("connect")
    subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), *PACKAGES], check=True, timeout=120)
    shutil.copy(SCRIPT, folder)
    return folder


def described() -> str:
    """Return the descriptors of the services, base64: connect-web needs no generated code."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (backbone_pb2, embedding_pb2):
        add_described(files, module.DESCRIPTOR)
    return base64.b64encode(files.SerializeToString()).decode()


def add_described(files: descriptor_pb2.FileDescriptorSet, file: Any) -> None:
    """Add a file after those that it imports."""
    for imported in file.dependencies:
        add_described(files, imported)
    if file.name not in [added.name for added in files.file]:
        copy = files.file.add()
        file.CopyToProto(copy)
        add_json_names(copy.message_type)


def add_json_names(messages: Iterable[descriptor_pb2.DescriptorProto]) -> None:
    """Add the names that fields have in JSON, which protoc writes and Python's library leaves out."""
    for message in messages:
        add_json_names(message.nested_type)
        for field in message.field:
            first, *rest = field.name.split("_")
            field.json_name = first + "".join(word.title() for word in rest)


@pytest.mark.parametrize("form", ["binary", "json"])
def test_connect_web_embeds_lists_and_reads_errors(media_server: RunningServer, node_folder: Path, form: str) -> None:
    """The rows are those of gRPC, and an error has the code and the reason."""
    command = ["node", SCRIPT.name, f"http://{media_server.server.http_address}", WORDS, form]
    done = subprocess.run(
        command, cwd=node_folder, input=described(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: Any = json.loads(done.stdout)
    assert answer["rows"] == embed_by_grpc(media_server, texts("good morning")).tolist()[0]
    assert WORDS in answer["names"]
    assert answer["error"] == {"code": 5, "reason": "BACKBONE_NOT_FOUND"}
