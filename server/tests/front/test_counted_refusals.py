"""Calls that end before a handler has them count as refusals, by the reason of their error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from server.tests.grpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Connection,
    frame,
    head,
    header,
    message,
)

GET = header(b":method", b"GET") + head().removeprefix(header(b":method", b"POST"))


@pytest.fixture(scope="module", params=[pytest.param(1, id="asyncio"), pytest.param(3, id="3-fronts")])
def counting_server(request: pytest.FixtureRequest, test_registry: Registry) -> Iterator[RunningServer]:
    """A server of which only these tests are clients."""
    with serving("linear", registry=test_registry, front="asyncio", fronts=request.param) as running:
        yield running


def counted(running: RunningServer, reason: str) -> float:
    """Return how many calls were refused for a reason."""
    registry = running.server.catalogue.metrics.registry
    return registry.get_sample_value("midrib_refusals_total", {"protocol": "grpc", "reason": reason}) or 0


@pytest.mark.parametrize(
    ("reason", "block", "content"),
    [
        pytest.param("UNIMPLEMENTED", head(path=b"/nothing/None"), message(b""), id="an unknown method"),
        pytest.param("LIMIT_EXCEEDED", head(), message(b"", declared=2**31), id="a message that is too long"),
        pytest.param("INVALID_ARGUMENT", head(), b"", id="no message"),
        pytest.param("INTERNAL", head(), b"\1" + message(b"x")[1:], id="a packed message without an encoding"),
        pytest.param("UNKNOWN", GET, b"", id="another HTTP method"),
    ],
)
def test_a_refusal_before_the_handler_is_counted_once(
    counting_server: RunningServer, reason: str, block: bytes, content: bytes
) -> None:
    """The counter has the reason that the client receives."""
    before = counted(counting_server, reason)
    connection = Connection(counting_server.address)
    connection.send([frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, content)])
    assert connection.until(HEADERS, flags=END_STREAM)
    connection.close()
    assert counted(counting_server, reason) == before + 1
