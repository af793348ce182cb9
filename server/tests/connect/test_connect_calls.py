"""The unary calls by the Connect protocol: the rows and the refusals are those of gRPC."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2
from midrib.wire import decode_tensor
from server.tests.connect.calls import EMBED, GET, JSON, LIST, PROTO, call, read, written
from server.tests.http.calls import WORDS, embed_by_grpc, texts

MEDIA = pytest.mark.parametrize("media", [pytest.param(PROTO, id="proto"), pytest.param(JSON, id="json")])
INPUT = texts("good morning", "la bonne nuit")


@pytest.fixture(scope="module")
def address(media_server: RunningServer) -> str | None:
    return media_server.server.http_address


@MEDIA
def test_a_batch_has_the_rows_of_grpc(media_server: RunningServer, address: str | None, media: str) -> None:
    """With its options, and the revision that computed it."""
    options = embedding_pb2.Options(normalize=True, dimensions=3)
    request = embedding_pb2.EmbedRequest(backbone=WORDS, input=INPUT, options=options)
    reply = call(address, EMBED, written(request, media), media=media)
    assert (reply.status, reply.headers["Content-Type"]) == (200, media)
    answer = read(embedding_pb2.EmbedResponse(), reply.body, media)
    rows = decode_tensor(answer.embedding)
    np.testing.assert_array_equal(rows, embed_by_grpc(media_server, INPUT, normalize=True, dimensions=3))
    assert answer.revision == media_server.server.catalogue.entry(WORDS).ready().served.description.revision


@MEDIA
def test_backbones_are_listed_and_described_as_by_grpc(
    media_server: RunningServer, address: str | None, media: str
) -> None:
    """The messages are equal."""
    which = backbone_pb2.GetBackboneRequest(name=WORDS)
    listed = call(address, LIST, written(backbone_pb2.ListBackbonesRequest(), media), media=media).body
    described = call(address, GET, written(which, media), media=media).body
    with grpc.insecure_channel(media_server.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        every = stub.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10)
        assert read(backbone_pb2.ListBackbonesResponse(), listed, media) == every
        assert read(backbone_pb2.GetBackboneResponse(), described, media) == stub.GetBackbone(which, timeout=10)


@pytest.mark.parametrize(
    ("body", "media", "expected"),
    [
        pytest.param({"backbone": "absent"}, PROTO, (404, "not_found", "BACKBONE_NOT_FOUND"), id="unknown backbone"),
        pytest.param({"backbone": WORDS}, PROTO, (400, "invalid_argument", "INVALID_INPUT"), id="no input"),
        pytest.param(b"\xff", PROTO, (400, "invalid_argument", "INVALID_INPUT"), id="damaged"),
        pytest.param(b"{", JSON, (400, "invalid_argument", "INVALID_INPUT"), id="half of an object"),
        pytest.param(b"[1]", JSON, (400, "invalid_argument", "INVALID_INPUT"), id="a list"),
        pytest.param(b'{"backbone": 3}', JSON, (400, "invalid_argument", "INVALID_INPUT"), id="another type"),
        pytest.param(b'{"backbon": "x"}', JSON, (400, "invalid_argument", "INVALID_INPUT"), id="misspelt"),
        pytest.param(
            {"backbone": WORDS, "revision": "00ff"},
            PROTO,
            (400, "failed_precondition", "REVISION_MISMATCH"),
            id="another revision",
        ),
        pytest.param(
            b'{"backbone": "' + b"x" * 10 + b'", "input": {"tensor": {"shape": [' + b"1," * 2**15 + b"1]}}}",
            JSON,
            (429, "resource_exhausted", "LIMIT_EXCEEDED"),
            id="many elements",
        ),
    ],
)
def test_a_refusal_has_the_code_and_the_reason_of_grpc(
    address: str | None, body: dict[str, Any] | bytes, media: str, expected: tuple[int, str, str]
) -> None:
    """The error has Connect's form: the details are the messages of google.rpc."""
    data = body if isinstance(body, bytes) else embedding_pb2.EmbedRequest(**body).SerializeToString()
    reply = call(address, EMBED, data, media=media)
    [info, *_] = reply.json["details"]
    value = base64.b64decode(info["value"] + "=" * (-len(info["value"]) % 4))
    reason = error_details_pb2.ErrorInfo.FromString(value).reason
    assert info["type"] == "google.rpc.ErrorInfo"
    assert (reply.status, reply.json["code"], reason) == expected


def test_a_client_of_grpc_web_learns_which_protocol_this_is(address: str | None) -> None:
    """The status is that of the Connect protocol for a form that the server does not speak."""
    reply = call(address, EMBED, b"", media="application/grpc-web+proto")
    assert reply.status == 415
    assert "use a client of the Connect protocol" in reply.json["error"]["message"]


def test_a_body_that_describes_nothing_is_small(address: str | None) -> None:
    """It counts in no quota."""
    assert call(address, LIST, bytes(2**16 + 1)).status == 413


def test_a_deadline_in_milliseconds_is_kept(address: str | None) -> None:
    """The header Connect-Timeout-Ms sets it."""
    request = embedding_pb2.EmbedRequest(backbone=WORDS, input=INPUT)
    reply = call(address, EMBED, request.SerializeToString(), headers={"Connect-Timeout-Ms": "0.001"})
    assert (reply.status, reply.json["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("scope", "path", "status"),
    [(None, EMBED, 401), (Scope.READ, EMBED, 403), (Scope.READ, LIST, 200), (Scope.EMBED, LIST, 403)],
)
def test_calls_need_the_scope_of_grpc(
    test_registry: Registry, tmp_path: Path, scope: Scope | None, path: str, status: int
) -> None:
    """`embed` to embed, `read` to list."""
    token, entry = new_token("team", [scope or Scope.READ])
    (tmp_path / "tokens.toml").write_text(entry)
    with serving("words", registry=test_registry, http_port=0, tokens=tmp_path / "tokens.toml") as running:
        headers = {} if scope is None else {"Authorization": f"Bearer {token}"}
        reply = call(running.server.http_address, path, b"", headers=headers)
    assert reply.status == status
    assert reply.json["code"] in ("unauthenticated", "permission_denied") if status != 200 else reply.body


def test_nothing_stays_in_flight(test_registry: Registry) -> None:
    """After an answer and after a refusal all bytes are free again."""
    with serving("words", registry=test_registry, http_port=0) as running:
        for request in (
            embedding_pb2.EmbedRequest(backbone=WORDS, input=INPUT),
            embedding_pb2.EmbedRequest(backbone=WORDS),
        ):
            call(running.server.http_address, EMBED, request.SerializeToString())
        assert running.server.embedder.in_flight.held == 0
