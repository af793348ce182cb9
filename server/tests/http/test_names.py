"""The names of backbones in requests: aliases, and names with a revision."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server import Settings
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from server.tests.http.calls import Answer, texts


@pytest.fixture(scope="module")
def named_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server of `words`, which requests may also call `small`."""
    with serving({"name": "words", "aliases": ["small"]}, registry=test_registry, http_port=0) as running:
        yield running


@pytest.fixture()
def revision(named_server: RunningServer) -> str:
    return named_server.server.catalogue.entry("words").ready().served.description.revision


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name) for name in ("small", "words@{}", "text/embedding/words@{:.12}", "small@{}")]
)
def test_an_alias_and_a_revision_name_the_backbone(named_server: RunningServer, revision: str, name: str) -> None:
    """Over HTTP and over gRPC; the answer names the backbone itself."""
    called = name.format(revision)
    answer = Answer(named_server.server.http_address, {"model": called, "input": "x"})
    assert (answer.status, answer.json.get("model")) == (200, "text/embedding/words")
    with grpc.insecure_channel(named_server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(backbone=called, input=texts("x"))
        assert stub.Embed(request, timeout=10).revision == revision


def test_another_revision_is_refused(named_server: RunningServer, revision: str) -> None:
    """The sentence has the revision that is served."""
    answer = Answer(named_server.server.http_address, {"model": "small@00ff", "input": "x"})
    assert answer.error[0::3] == (400, "REVISION_MISMATCH")
    assert f"is at revision {revision[:12]}, the name asks for '00ff'" in answer.json["error"]["message"]


def test_models_are_listed_with_their_aliases(named_server: RunningServer) -> None:
    """Programs that choose from the list find both names."""
    connection = http.client.HTTPConnection(str(named_server.server.http_address), timeout=20)
    connection.request("GET", "/v1/models")
    listed = json.loads(connection.getresponse().read())["data"]
    connection.close()
    assert [model["id"] for model in listed] == ["small", "text/embedding/words"]


@pytest.mark.parametrize(
    "backbones",
    [
        pytest.param([{"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["x"]}], id="of two backbones"),
        pytest.param([{"name": "a", "aliases": ["b"]}, {"name": "b"}], id="the name of another"),
        pytest.param([{"name": "a", "aliases": ["a@1"]}], id="with an @"),
    ],
)
def test_an_ambiguous_alias_is_refused(backbones: Any) -> None:
    """When the settings are read."""
    with pytest.raises(ValueError, match=r"alias '.*' is empty, has an @, or names two backbones: choose another"):
        Settings(backbones=backbones)
