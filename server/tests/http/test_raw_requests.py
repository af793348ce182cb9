"""Bytes that are not HTTP/1.1, or that two readers would cut differently: refused in JSON, and counted."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from email.parser import BytesParser

import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving

POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# A request that a proxy in front of the server would not have seen.
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = [
    pytest.param(
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN, id="both lengths"
    ),
    pytest.param(POST + b"Content-Length: 0\r\nContent-Length: 39\r\n\r\n" + HIDDEN, id="two lengths"),
    pytest.param(POST + b"Content-Length: +4\r\n\r\nabcd" + HIDDEN, id="a length with a sign"),
    pytest.param(POST + b"Content-Length: 4, 4\r\n\r\nabcd" + HIDDEN, id="a list of lengths"),
    pytest.param(POST + b"Content-Length: -1\r\n\r\n" + HIDDEN, id="a negative length"),
    pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN, id="chunked is not last"),
    pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN, id="an unknown encoding"),
    pytest.param(POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN, id="a space before the colon"),
    pytest.param(POST + b"X: a\r\n folded: b\r\n\r\n" + HIDDEN, id="a folded header"),
    pytest.param(POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + HIDDEN, id="a bare CR"),
    pytest.param(POST + b"X: a\0b\r\n\r\n" + HIDDEN, id="a NUL"),
    pytest.param(POST + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n", id="thousands of headers"),
    pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="a long path"),
    pytest.param(b"GET / HTTP/3.7.1\r\nHost: x\r\n\r\n", id="an unknown version"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), id="HTTP/2"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), id="TLS"),
]


@pytest.fixture(scope="module")
def raw_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server of which only these tests are clients."""
    with serving("linear", registry=test_registry, http_port=0) as running:
        yield running


def answers(running: RunningServer, sent: bytes) -> bytes:
    """Return all bytes that the server sends before it closes the connection."""
    host, _, port = str(running.server.http_address).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as reader:
            return reader.read()


@pytest.mark.parametrize("sent", REFUSED)
def test_an_ambiguous_request_is_refused_as_any_other_and_nothing_after_it_is_read(
    raw_server: RunningServer, sent: bytes
) -> None:
    """In JSON, without the names and versions of libraries; the hidden request is not answered."""
    head, _, body = answers(raw_server, sent).partition(b"\r\n\r\n")
    status, _, lines = head.partition(b"\r\n")
    headers = BytesParser().parsebytes(lines)
    assert status[9:] == b"400 Bad Request"
    assert (headers["Server"], headers["X-Content-Type-Options"]) == ("midrib", "nosniff")
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == ("BAD_REQUEST", "invalid_request_error")


def test_an_unknown_expectation_is_refused_in_json(raw_server: RunningServer) -> None:
    """By aiohttp, before any route sees it."""
    head, _, body = answers(raw_server, POST + b"Expect: a-miracle\r\nContent-Length: 0\r\n\r\n").partition(b"\r\n\r\n")
    assert (head[:12], b"aiohttp" in head) == (b"HTTP/1.1 417", False)
    assert json.loads(body)["error"]["code"] == "EXPECTATION_FAILED"


def test_early_refusals_are_counted(raw_server: RunningServer) -> None:
    """Beside those of the routes."""
    answers(raw_server, b"GET / HTTP/3.7.1\r\n\r\n")
    metrics = answers(raw_server, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'midrib_refusals_total{protocol="http",reason="BAD_REQUEST"}' in metrics


@pytest.mark.parametrize("protocol", [pytest.param(name, id=name.decode()) for name in (b"websocket", b"h2c")])
def test_an_upgrade_is_declined(raw_server: RunningServer, protocol: bytes) -> None:
    """The request is answered as HTTP/1.1."""
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: " + protocol + b"\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    assert answers(raw_server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + upgrade).startswith(b"HTTP/1.1 200")
