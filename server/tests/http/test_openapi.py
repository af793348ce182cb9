"""/openapi.json and /docs: they describe what the port serves, and load nothing from elsewhere."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

import pytest

from midrib.server._http.openapi import openapi_document
from midrib.server._http.routes import Routes
from midrib.server.testing import RunningServer

UNDOCUMENTED = {"/openapi.json", "/docs"}


def get(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.fixture(scope="module")
def document(address: str) -> Any:
    return json.loads(get(address, "/openapi.json"))


def test_every_route_is_described(document: Any, media_server: RunningServer) -> None:
    """And nothing that is not there."""
    routes = Routes(media_server.server.embedder).all()
    served = {(route.method, route.path.replace(":.+", "")) for route in routes}
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(method, path) for method, path in served if path not in UNDOCUMENTED}


def test_every_reference_leads_to_a_schema(document: Any) -> None:
    """Programs that generate clients follow them."""
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert names == set(document["components"]["schemas"])
    assert document["openapi"].startswith("3.1")


def test_tokens_are_asked_for_where_the_server_needs_them() -> None:
    """As a bearer token."""
    assert openapi_document(tokens=True)["security"] == [{"token": []}]
    assert "security" not in openapi_document(tokens=False)


def test_the_page_shows_every_path_and_field_and_loads_nothing(address: str, document: Any) -> None:
    """No script, no style sheet and no picture of another server: it works offline."""
    page = get(address, "/docs")
    fields = document["components"]["schemas"]["EmbeddingsBody"]["properties"]
    assert [name for name in (*document["paths"], *fields) if name not in page] == []
    assert re.findall(r"<script|<link|<img|https?://", page) == []
