"""docs/architecture.md names modules and folders that exist, and the modules that an embedding passes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import grpc
import numpy as np
import pytest

from midrib.remote import Client
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "server/src/midrib/server"
PAGE = (ROOT / "docs/architecture.md").read_text()
STATIONS = [
    re.findall(r"`(_\S+\.py)`", row)
    for row in PAGE.partition("| station |")[2].partition("\n\n")[0].splitlines()
    if "`" in row
]
MLP = "template/classification/mlp-128"
MODULES = sorted(set(re.findall(r"`(_\w+(?:/\w+)?\.py)`", PAGE)))


@pytest.mark.parametrize("module", MODULES)
def test_a_named_module_exists(module: str) -> None:
    """A module that moves takes its line of the page along."""
    assert (SERVER / module).is_file()


def test_the_page_lists_every_folder_of_the_server() -> None:
    """A new subpackage gets its line in the table of folders."""
    listed = re.findall(r"^\| `(_\w+)/` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in SERVER.glob("_*/__init__.py"))


def test_the_page_answers_at_least_twenty_five_questions() -> None:
    """The table of questions lets a reader check how well the names of the modules speak for themselves."""
    table = PAGE.partition("## Which module to open")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| .*\? \| `_\S+\.py` \|$", table, re.MULTILINE)) >= 25


class EnteredModules:
    """The modules of the server that its threads enter, in order, as a profile function records them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SERVER):
            self.names.append(path.relative_to(SERVER).as_posix())


@pytest.fixture()
def entered() -> Iterator[EnteredModules]:
    """Record the modules that threads enter which start from now on."""
    modules = EnteredModules()
    threading.setprofile(modules)
    yield modules
    threading.setprofile(None)


def embed_unary(address: str, token: str) -> None:
    """Embed a row by a unary call."""
    tensor = encode_tensor(np.zeros((1, 4), np.float32))
    request = embedding_pb2.EmbedRequest(backbone=MLP, input=embedding_pb2.Input(tensor=tensor))
    with grpc.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        stub.Embed(request, metadata=[("authorization", f"Bearer {token}")])


def embed_in_stream(address: str, token: str) -> None:
    """Embed a row by a stream."""
    with Client(address, token=token) as client:
        client.embed(MLP, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("embed", "answering"),
    [
        pytest.param(embed_unary, "_grpc/embedding_service.py", id="unary"),
        pytest.param(embed_in_stream, "_grpc/item_stream.py", id="stream"),
    ],
)
def test_an_embedding_passes_the_stations_of_the_page_in_order(
    embed: Callable[[str, str], None], answering: str, entered: EnteredModules, tmp_path: Path
) -> None:
    """There are at most nine modules, each of which hands the embedding to the next one."""
    secret, entry = new_token("tester", [Scope.READ, Scope.EMBED])
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry)
    with serving({"name": MLP, "arguments": {"num_features": 4}}, tokens=tokens) as server:
        entered.names.clear()
        embed(server.address, secret)
    stations = [modules[0] for modules in STATIONS[:-1]]
    begin = entered.names.index("_calls/embedder.py")
    before, after = dict.fromkeys(entered.names[:begin]), dict.fromkeys(entered.names[begin:])
    assert [name for name in before if name in stations[:2]] + [
        name for name in after if name in stations[2:]
    ] == stations
    assert answering in STATIONS[-1]
    assert answering in entered.names[entered.names.index(stations[-1]) :]
    assert len(STATIONS) <= 9
