"""/openapi.json and /docs: they describe the routes of the port, and load nothing from elsewhere."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midrib.server._http.openapi import OPERATIONS, Operation, openapi_document
from midrib.server._http.routes import Routes
from midrib.server.testing import RunningServer
from server.tests.http.calls import JSON

VALIDATOR = "openapi-spec-validator==0.9.0"
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
    """The document lists no route that does not exist."""
    routes = Routes(media_server.server.embedder).all()
    served = {(route.method, route.path.replace(":.+", "")) for route in routes}
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(method, path) for method, path in served if path not in UNDOCUMENTED}


ANSWERS = [
    pytest.param(operation, id=f"{operation.method} {operation.path}")
    for operation in OPERATIONS
    if operation.result is not None
]
TENSOR = {"name": "texts", "datatype": "BYTES", "shape": [1], "data": ["good morning"]}
BODIES = {
    "/v1/embeddings": {"model": "words", "input": ["good morning", "good night"]},
    "/similarity": {"model": "words", "inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/v2/models/{name}/infer": {"inputs": [TENSOR], "id": "call-1"},
}


@pytest.mark.parametrize("operation", ANSWERS)
def test_a_real_answer_is_valid_by_its_schema(address: str, document: Any, operation: Operation) -> None:
    """A client that is generated from the document reads every field, and no other field comes."""
    assert operation.result is not None
    connection = http.client.HTTPConnection(address, timeout=20)
    body = json.dumps(BODIES.get(operation.path))
    connection.request(operation.method.upper(), operation.path.format(name="words"), body, JSON)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status == 200
    operation.result.model_validate_json(text, strict=True)
    described = document["paths"][operation.path][operation.method]["responses"]["200"]["content"]
    assert described == {"application/json": {"schema": {"$ref": f"#/components/schemas/{operation.result.__name__}"}}}


@pytest.mark.external()
def test_the_document_is_valid_by_the_validator_of_openapi(
    document: Any, external_python: Callable[[str], Path]
) -> None:
    """The real openapi-spec-validator, with its schema of OpenAPI 3.1."""
    program = "import json, sys; from openapi_spec_validator import validate; validate(json.load(sys.stdin))"
    command = [str(external_python(VALIDATOR)), "-c", program]
    done = subprocess.run(command, input=json.dumps(document), text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_reference_leads_to_a_schema(document: Any) -> None:
    """Programs that generate clients follow them."""
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert names == set(document["components"]["schemas"])
    assert document["openapi"].startswith("3.1")


def test_the_document_asks_for_tokens_if_the_server_needs_them() -> None:
    """They are sent as bearer tokens."""
    assert openapi_document(tokens=True)["security"] == [{"token": []}]
    assert "security" not in openapi_document(tokens=False)


def test_the_page_shows_every_path_and_field_and_loads_nothing(address: str, document: Any) -> None:
    """No script, no style sheet and no picture of another server: it works offline."""
    page = get(address, "/docs")
    fields = document["components"]["schemas"]["EmbeddingsBody"]["properties"]
    assert [name for name in (*document["paths"], *fields) if name not in page] == []
    assert re.findall(r"<script|<link|<img|https?://", page) == []
