"""The stream of live values: complete, bounded in number and in time, ended with the server."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._console import events
from midrib.server.testing import RunningServer, serving
from server.tests.console.calls import ask

PATH = "/console/api/events"


class Stream:
    """One open stream of events."""

    def __init__(self, running: RunningServer, token: str | None = None, **headers: str) -> None:
        self.connection = http.client.HTTPConnection(str(running.server.http_address), timeout=20)
        sent = headers if token is None else {"Authorization": f"Bearer {token}", **headers}
        self.connection.request("GET", PATH, headers=sent)
        self.response = self.connection.getresponse()

    def next(self) -> Any:
        """Return the next event; None once the stream has ended."""
        lines = [self.response.readline(), self.response.readline()]
        return json.loads(lines[0].removeprefix(b"data: ")) if lines[0] else None

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_an_event_has_the_load_of_the_last_seconds(guarded_server: RunningServer, tokens: Any) -> None:
    """It has the rows per second, the queue and the quantiles of each backbone and each token."""
    token = tokens[0]["all"]
    with closing(Stream(guarded_server, token)) as stream:
        first = stream.next()
        ask(guarded_server, "/v1/embeddings", body={"model": "words", "input": ["a", "b"]}, token=token)
        second = stream.next()
    [idle], [busy] = first["backbones"], second["backbones"]
    assert (idle["state"], idle["rows_per_s"], idle["item_p99_s"]) == ("ready", None, None)
    assert (busy["queue_items"], busy["batch_rows"]) == (0, 2)
    assert busy["rows_per_s"] > 0
    assert 0 < busy["item_p50_s"] <= busy["item_p99_s"] < 10
    assert [(tenant["name"], tenant["items"]) for tenant in second["tenants"]] == [("all", 1)]
    assert second["devices"][0]["weight_bytes"] > 0


def test_a_refused_call_shows(console_server: RunningServer) -> None:
    """The overview has its reason and its protocol."""
    ask(console_server, "/v1/models/nothing")
    with closing(Stream(console_server)) as stream:
        refusals = stream.next()["refusals"]
    assert "BACKBONE_NOT_FOUND" in {refusal["reason"] for refusal in refusals}


@pytest.mark.parametrize("limit", ["MAX_STREAMS", "MAX_STREAMS_OF_A_TOKEN"])
def test_the_number_of_streams_is_bounded(
    guarded_server: RunningServer, tokens: Any, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """There is a limit for all callers, and one for each token."""
    monkeypatch.setattr(events, limit, 1)
    token = tokens[0]["all"]
    with closing(Stream(guarded_server, token)) as stream:
        stream.next()
        refused = ask(guarded_server, PATH, token=token)
    assert (refused.status, refused.json["error"]["code"]) == (429, "OVERLOADED")
    assert "close other pages of the console" in refused.json["error"]["message"]


def test_a_stream_that_ended_makes_room(console_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a call bounds each stream, and it ends well, so that the page opens the next one."""
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    with closing(Stream(console_server, **{"X-Request-Timeout": "4"})) as stream:
        received = [stream.next(), stream.next(), stream.next()]
    with closing(Stream(console_server)) as next_stream:
        status = next_stream.response.status
    assert [event is None for event in received] == [False, False, True]
    assert status == 200


def test_a_stream_ends_when_the_server_stops(test_registry: Registry) -> None:
    """It does not hold the drain up."""
    with serving("words", registry=test_registry, http_port=0, console=True) as running:
        stream = Stream(running)
        stream.next()
    with closing(stream):
        assert stream.next() is None


def test_a_stream_ends_when_its_token_is_withdrawn(tmp_path: Path, test_registry: Registry) -> None:
    """A token may be withdrawn while a page is open."""
    path = tmp_path / "tokens.toml"
    token, entry = new_token("leaver", [Scope.READ])
    path.write_text(entry)
    settings: dict[str, Any] = {"http_port": 0, "console": True, "tokens": path}
    with (
        serving("words", registry=test_registry, **settings) as running,
        closing(Stream(running, token)) as stream,
    ):
        stream.next()
        path.write_text(new_token("stayer", [Scope.READ])[1])
        running.server.reload()
        assert stream.next() is None


@pytest.fixture()
def team(tmp_path: Path) -> tuple[str, str, Path]:
    """The tokens of a team and of an administrator, and their file; the team may have 4 MiB in flight."""
    (token, entry), (admin, admin_entry) = new_token("team", [Scope.READ, Scope.EMBED]), new_token("admin", list(Scope))
    path = tmp_path / "tokens.toml"
    path.write_text(f"{entry}max_in_flight_bytes = {2**22}\n{admin_entry}")
    return token, admin, path


def test_a_team_sees_its_load_and_limits_but_no_other_token(
    team: tuple[str, str, Path], test_registry: Registry
) -> None:
    """This holds for the console and for the metrics; an administrator sees all."""
    token, admin, path = team
    with serving("words", registry=test_registry, http_port=0, console=True, tokens=path) as running:
        for sender in (token, admin):
            ask(running, "/v1/embeddings", body={"model": "words", "input": "x"}, token=sender)
        with closing(Stream(running, token)) as of_team, closing(Stream(running, admin)) as of_admin:
            events_seen = [of_team.next(), of_admin.next()]
        metrics = [ask(running, "/metrics", token=sender).body.decode() for sender in (token, admin)]
    assert [[load["name"] for load in event["tenants"]] for event in events_seen] == [["team"], ["admin", "team"]]
    assert [event["token"]["max_in_flight_bytes"] for event in events_seen] == [2**22, None]
    assert ['token="admin"' in text for text in metrics] == [False, True]
    assert all('midrib_token_rows_total{token="team"} 1.0' in text for text in metrics)


def test_a_token_for_monitoring_sees_all_tokens(guarded_server: RunningServer, tokens: Any) -> None:
    """It may only read, and embeds nothing."""
    ask(guarded_server, "/v1/embeddings", body={"model": "words", "input": "x"}, token=tokens[0]["embed"])
    metrics = ask(guarded_server, "/metrics", token=tokens[0]["read"]).body.decode()
    assert 'midrib_token_rows_total{token="embed"}' in metrics


def test_head_is_no_method_of_the_stream(console_server: RunningServer) -> None:
    """Its answer has no body: a client would read the events as the answer to its next request."""
    connection = http.client.HTTPConnection(str(console_server.server.http_address), timeout=20)
    connection.request("HEAD", PATH)
    with closing(connection), connection.getresponse() as response:
        assert response.status == 405


def test_a_stream_that_is_not_read_ends_with_the_server(
    test_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not after its 45 seconds: here an event is longer than the buffers between the two."""
    monkeypatch.setattr(events, "overview", lambda *_: {"tenants": [], "filler": "x" * 2**24})
    with serving("words", registry=test_registry, http_port=0, console=True) as running:
        stream = Stream(running)
        started = time.monotonic()
        running.run(running.server.stop(grace_s=10.0))
        seconds = time.monotonic() - started
    stream.close()
    assert seconds < 8
