"""Rates per token: how much is saved up, when a call is refused, and how long a stream waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server._admission.quotas import Quota, Reservation
from midrib.server._admission.rates import Rate
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import OverloadedError
from server.tests.http.calls import JSON, Answer, texts


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_saves_up_one_second() -> None:
    """A pause of ten seconds does not allow ten times the rate afterwards."""
    clock = Clock()
    rate = Rate(10, what="requests", clock=clock)
    clock.now = 10
    rate.acquire_nowait(10)
    with pytest.raises(OverloadedError, match=r"more than 10 requests per second: try again in 0.1 s"):
        rate.acquire_nowait(1)
    clock.now = 10.1
    rate.acquire_nowait(1)


def test_an_amount_above_the_rate_is_admitted_and_paid_for_later() -> None:
    """Otherwise it could never be served."""
    clock = Clock()
    rate = Rate(10, what="bytes", clock=clock)
    rate.acquire_nowait(30)
    with pytest.raises(OverloadedError, match="try again in 2.1 s") as refused:
        rate.acquire_nowait(1)
    assert refused.value.retry_after == pytest.approx(2.1)


def test_a_refused_request_uses_nothing() -> None:
    """A caller who is refused because too much is in flight may try again at once when that has ended."""
    rate, in_flight = Rate(1, what="requests", clock=Clock()), Quota(10)
    in_flight.acquire_nowait(10)
    for _ in range(3):
        with pytest.raises(OverloadedError, match="10 bytes are in flight and 5 more were asked for, limit 10"):
            Reservation((rate, 1), (in_flight, 5)).acquire_nowait()
    in_flight.release(10)
    Reservation((rate, 1), (in_flight, 5)).acquire_nowait()
    with pytest.raises(OverloadedError, match="more than 1 requests per second"):
        Reservation((rate, 1), (in_flight, 5)).acquire_nowait()


async def test_a_stream_waits_for_the_rate() -> None:
    """It is slowed down, not refused."""
    rate = Rate(1000, what="requests")
    rate.acquire_nowait(1010)
    await asyncio.wait_for(rate.acquire(1), 10)
    with pytest.raises(OverloadedError, match="more than 1000 requests per second"):
        rate.acquire_nowait(1000)


@pytest.fixture()
def headers() -> dict[str, str]:
    return dict(JSON)


@pytest.fixture(params=["max_requests_per_s = 0.001", "max_bytes_per_s = 0.001"])
def slow_server(
    request: pytest.FixtureRequest, headers: dict[str, str], tmp_path: Path, test_registry: Registry
) -> Iterator[RunningServer]:
    """A server whose only token has one request, or one byte, in a thousand seconds."""
    token, entry = new_token("team-a", [Scope.EMBED])
    (tmp_path / "tokens.toml").write_text(f"{entry}{request.param}\n")
    headers["Authorization"] = f"Bearer {token}"
    with serving("words", registry=test_registry, http_port=0, tokens=tmp_path / "tokens.toml") as running:
        yield running


def test_the_rate_of_a_token_holds_over_http(slow_server: RunningServer, headers: dict[str, str]) -> None:
    """The answer says when to try again."""
    address, body = slow_server.server.http_address, {"model": "words", "input": "x"}
    first, second = (Answer(address, body, headers=headers) for _ in range(2))
    assert (first.status, second.status) == (200, 429), json.dumps(second.json)
    assert int(second.headers["Retry-After"]) >= 990


def test_the_rate_of_a_token_holds_over_grpc(slow_server: RunningServer, headers: dict[str, str]) -> None:
    """For unary calls, as for HTTP."""
    metadata = [("authorization", headers["Authorization"])]
    request = embedding_pb2.EmbedRequest(backbone="words", input=texts("x"))
    with grpc.insecure_channel(slow_server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        stub.Embed(request, metadata=metadata, timeout=10)
        with pytest.raises(grpc.RpcError, match=r"(?s)RESOURCE_EXHAUSTED.*per second"):
            stub.Embed(request, metadata=metadata, timeout=10)


def test_a_call_that_the_quotas_refuse_uses_nothing_of_the_rate(tmp_path: Path, test_registry: Registry) -> None:
    """It is sent again, and must not be refused then because of the first time."""
    token, entry = new_token("team-a", [Scope.EMBED])
    path = tmp_path / "tokens.toml"
    path.write_text(f"{entry}max_bytes_per_s = 0.001\n")
    authorized, body = {**JSON, "Authorization": f"Bearer {token}"}, {"model": "words", "input": "x"}
    with serving("words", registry=test_registry, http_port=0, tokens=path, max_in_flight_bytes=100_000) as running:
        # Room for the body, but not for the decoded item and its answer.
        quota = running.server.embedder.in_flight
        other_share = quota.share("others")
        running.run(other_share.acquire(quota.room - 50))
        refused = Answer(running.server.http_address, body, headers=authorized)
        other_share.release(quota.room - 50)
        second = Answer(running.server.http_address, body, headers=authorized)
    assert (refused.status, second.status) == (429, 200), refused.json
    assert "bytes are in flight" in refused.json["error"]["message"]
