"""Connections that end while a call runs: it is answered first."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import grpc
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


GRACE_S = 6.0


def test_half_sent_calls_on_both_ports_share_one_grace(front: str, test_registry: Registry) -> None:
    """Stopped one after the other, the ports would take the grace twice. Both callers get UNAVAILABLE."""
    with serving("linear", registry=test_registry, front=front, admin_port=0) as running, ExitStack() as channels:
        calls = []
        for address in (running.address, str(running.server.admin_address)):
            channel = channels.enter_context(grpc.insecure_channel(address))
            requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            call: Any = channel.stream_unary("/midrib.v1.BackboneService/ListBackbones")
            calls.append(call.future(iter(requests.get, b""), timeout=60))
            grpc.channel_ready_future(channel).result(20)
        began = time.monotonic()
        running.run(running.server.stop(GRACE_S), timeout=60)
        assert time.monotonic() - began < GRACE_S + 5
        assert [call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 2
