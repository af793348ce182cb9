"""The description of the HTTP port for programs (/openapi.json) and for people (/docs), without scripts.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from midrib.server._http.body import AnswerFields, Fields
from midrib.server._http.embeddings import Embeddings, EmbeddingsBody
from midrib.server._http.inference import InferBody, Inference, ModelMetadata
from midrib.server._http.similarity import Cosines, SimilarityBody

_TEXT, _JSON, _BYTES = "text/plain", "application/json", "application/octet-stream"
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {
                    "type": "string",
                    "description": "The problem, the values that are accepted, and a remedy.",
                },
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is at fault."},
                "code": {"type": "string", "description": "The reason, such as BACKBONE_NOT_FOUND or OVERLOADED."},
            },
        }
    },
}


class Model(AnswerFields):
    """A served backbone, or an alias of one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(AnswerFields):
    """The answer of GET /v1/models."""

    object: Literal["list"]
    data: list[Model]


class ServerMetadata(AnswerFields):
    """The answer of GET /v2."""

    name: str
    version: str
    extensions: list[str]


class Live(AnswerFields):
    """The answer of GET /v2/health/live."""

    live: bool


class Ready(AnswerFields):
    """The answer of GET /v2/health/ready."""

    ready: bool


class ModelReady(AnswerFields):
    """The answer of GET /v2/models/{name}/ready."""

    name: str
    ready: bool


class Operation(NamedTuple):
    """One method of one path.

    path: its parameters are in braces.  answer: describes the body of a 200.  media: the media type of that body.
    result: the body of a 200, if it is JSON that clients read.
    query: the values of each parameter of the query, by its name; then the body is a file.
    """

    method: str
    path: str
    summary: str
    answer: str
    body: type[Fields] | None = None
    media: str = _JSON
    query: Mapping[str, Sequence[str]] | None = None
    result: type[BaseModel] | None = None


OPERATIONS = (
    Operation(
        "post",
        "/v1/embeddings",
        "Embed texts or images, as OpenAI does.",
        "The embeddings.",
        EmbeddingsBody,
        result=Embeddings,
    ),
    Operation("get", "/v1/models", "List the served backbones and their aliases.", "The list.", result=Models),
    Operation("get", "/v1/models/{name}", "Look up a served backbone.", "The backbone.", result=Model),
    Operation(
        "post",
        "/similarity",
        "Compare sentences, as text-embeddings-inference does.",
        "A cosine for each sentence.",
        SimilarityBody,
        result=Cosines,
    ),
    Operation(
        "get",
        "/v2",
        "Name the server, as the Open Inference Protocol does.",
        "Name and version.",
        result=ServerMetadata,
    ),
    Operation("get", "/v2/health/live", "Say whether the process is alive.", "It is.", result=Live),
    Operation("get", "/v2/health/ready", "Say whether everything is loaded.", "It is; 503 if it is not.", result=Ready),
    Operation(
        "get",
        "/v2/models/{name}",
        "Describe the inputs and the output of a backbone.",
        "The metadata.",
        result=ModelMetadata,
    ),
    Operation("get", "/v2/models/{name}/ready", "Say whether a backbone is loaded.", "It is.", result=ModelReady),
    Operation(
        "post",
        "/v2/models/{name}/infer",
        "Embed texts, images or a tensor.",
        "The embedding.",
        InferBody,
        result=Inference,
    ),
    Operation("get", "/healthz", "Say whether the process is alive.", "It is.", media=_TEXT),
    Operation("get", "/readyz", "Say whether everything is loaded.", "It is; 503 if it is not.", media=_TEXT),
    Operation("get", "/metrics", "Return the metrics for Prometheus.", "The metrics.", media=_TEXT),
)


def openapi_document(*, tokens: bool, console: Sequence[Operation] = ()) -> dict[str, Any]:
    """Return the OpenAPI document of the port.

    tokens: whether calls need one.  console: the operations of the console, if it is on.
    """
    operations = [*OPERATIONS, *console]
    kinds = [kind for operation in operations for kind in (operation.body, operation.result) if kind is not None]
    models = [(kind, "validation") for kind in kinds]
    schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")[1]["$defs"]  # type: ignore[arg-type] # the modes are literals
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    components: dict[str, Any] = {"schemas": {**schemas, "Error": _ERROR}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Midrib", "version": server_version(), "description": "Embeddings of served backbones."},
        "paths": paths,
        "components": components,
    }
    if tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def docs_page(document: dict[str, Any]) -> str:
    """Return a page that shows an OpenAPI document; it loads nothing else.

    It is public, and names neither backbones nor the version of the server.
    """
    sections = [
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>"
        + _body_html(operation, document)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return _PAGE.format(sections="\n".join(sections))


def _operation(operation: Operation) -> dict[str, Any]:
    result: dict[str, Any] = {} if operation.media == _JSON else {"type": "string"}
    if operation.result is not None:
        result = {"$ref": f"#/components/schemas/{operation.result.__name__}"}
    error = {"description": "The error.", "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path.translate(_NO_PUNCTUATION)}",
        "responses": {
            "200": {"description": operation.answer, "content": {operation.media: {"schema": result}}},
            "default": error,
        },
    }
    if "{name}" in operation.path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if operation.body is not None:
        schema = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema}}}
    if operation.query is not None:
        described["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "enum": list(values)}}
            for name, values in operation.query.items()
        ]
        described["requestBody"] = {"required": True, "content": {_BYTES: {"schema": {}}}}
    return described


def _body_html(operation: dict[str, Any], document: dict[str, Any]) -> str:
    content = operation.get("requestBody", {"content": {}})["content"]
    if _JSON not in content:
        return "".join(f"<p>The body is <code>{html.escape(media)}</code>.</p>" for media in content)
    name = content[_JSON]["schema"]["$ref"].rpartition("/")[2]
    schema = document["components"]["schemas"][name]
    rows = [
        f"<tr><td><code>{html.escape(field)}</code></td><td>{'yes' if field in schema.get('required', ()) else ''}</td>"
        f"<td>{html.escape(_type(details))}</td><td>{html.escape(details.get('description', ''))}</td></tr>"
        for field, details in schema["properties"].items()
    ]
    return f"<table><tr><th>field</th><th>required</th><th>type</th><th></th></tr>{''.join(rows)}</table>"


def _type(details: dict[str, Any]) -> str:
    if "enum" in details:
        return " or ".join(json.dumps(value) for value in details["enum"])
    if "anyOf" in details:
        return " or ".join(map(_type, details["anyOf"]))
    return str(details.get("type") or details.get("$ref", "any").rpartition("/")[2])


def server_version() -> str:
    """Return the version of the installed server, "0" if it runs from its sources."""
    try:
        return version("midrib-server")
    except PackageNotFoundError:
        return "0"


_NO_PUNCTUATION = str.maketrans({"/": "_", "{": "", "}": ""})
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Midrib over HTTP</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
td, th {{ border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top; }}
</style>
<h1>Midrib over HTTP</h1>
<p>The same description for programs: <a href="openapi.json">openapi.json</a>. Calls that need a token send it as
<code>Authorization: Bearer TOKEN</code>.</p>
{sections}
</html>
"""
