"""Connections that end while a call runs: it is answered first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2
from midrib.wire import encode_tensor
from server.tests.conftest import Gate
from server.tests.grpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    Connection,
    frame,
    head,
    message,
)

ROWS = embedding_pb2.Input(tensor=encode_tensor(np.full((1, 2), 13, np.float32)))
REQUEST = embedding_pb2.EmbedRequest(backbone="gate", input=ROWS)
CALL = frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, END_STREAM, 1, message(REQUEST.SerializeToString()))


@pytest.fixture(params=[pytest.param({}, id="stop"), pytest.param({"max_connection_age_s": 0.3}, id="age")])
def ending(
    request: pytest.FixtureRequest, front: str, test_registry: Registry, gate: type[Gate]
) -> Iterator[Connection]:
    """A server that asks its clients to go while a call waits in the device, and the connection of that call."""
    with (
        serving("gate", registry=test_registry, front=front, **request.param) as running,
        closing(Connection(running.address)) as connection,
    ):
        connection.send([CALL])
        assert gate.passing.wait(20)
        stopping = None if request.param else running.start(running.server._grpc.stop(20))
        yield connection
        if stopping is not None:
            stopping.result(30)


def test_a_running_call_is_answered_before_its_connection_ends(ending: Connection, gate: type[Gate]) -> None:
    """GOAWAY comes at once, the answer with status OK when it is ready, and then the connection closes."""
    assert ending.until(GOAWAY)
    gate.opened.set()
    frames = list(ending.frames())
    assert [payload for kind, flags, payload in frames if kind == HEADERS and flags & END_STREAM] != []
