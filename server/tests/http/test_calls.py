"""Calls that do not end well: late, abandoned, refused for lack of room, or failed."""

from __future__ import annotations

import http.client
import json
import queue
from typing import Any

import pytest

from midrib.server.testing import RunningServer
from server.tests.http.calls import JSON, Answer, freed


def test_a_late_call_is_given_up(fresh_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller sets the limit, and the items of the call are dropped before the device."""
    served = fresh_server.server.catalogue.entry("words").ready().served
    items = queue.SimpleQueue[Any]()
    monkeypatch.setattr(served.batcher, "submit", items.put)
    answer = Answer(
        fresh_server.server.http_address,
        {"model": "words", "input": "x"},
        headers={**JSON, "X-Request-Timeout": "0.05"},
    )
    assert answer.error == (504, "server_error", None, "DEADLINE_EXCEEDED")
    assert items.get(timeout=10).done.cancelled()


def test_a_caller_who_hangs_up_is_dropped(fresh_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items for which no caller waits never reach the device."""
    served = fresh_server.server.catalogue.entry("words").ready().served
    items, dropped = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()

    def submit(item: Any) -> None:
        item.done.add_done_callback(dropped.put)
        items.put(item)

    monkeypatch.setattr(served.batcher, "submit", submit)
    connection = http.client.HTTPConnection(str(fresh_server.server.http_address), timeout=20)
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "words", "input": "x"}), JSON)
    items.get(timeout=10)
    connection.close()
    assert dropped.get(timeout=10).cancelled()


def test_a_failed_part_ends_the_others(fresh_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of two items fails with the error of the first to fail, and holds nothing afterwards."""
    served = fresh_server.server.catalogue.entry("words").ready().served
    items = queue.SimpleQueue[Any]()

    def submit(item: Any) -> None:
        items.put(item)
        if items.qsize() == 2:
            item.done.set_exception(ValueError("of the module"))

    monkeypatch.setattr(served.batcher, "submit", submit)
    answer = Answer(fresh_server.server.http_address, {"model": "words", "input": ["x"] * 1025})
    assert answer.error == (500, "server_error", None, "INTERNAL")
    assert items.get(timeout=10).done.cancelled()
    fresh_server.run(freed(fresh_server))


def test_a_call_without_room_says_when_to_try_again(fresh_server: RunningServer) -> None:
    """429, after which OpenAI's clients wait and send the call again."""
    quota = fresh_server.server.embedder.in_flight
    other_share = quota.share("others")
    other_share.acquire_nowait(quota.room)
    answer = Answer(fresh_server.server.http_address, {"model": "words", "input": "x"})
    assert (answer.error, answer.headers["Retry-After"]) == ((429, "rate_limit_error", None, "OVERLOADED"), "1")


def test_an_unforeseen_fault_is_an_id_and_no_detail(
    fresh_server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of the exception goes to the log."""

    def fail(_request: Any, _caller: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(fresh_server.server.embedder, "embed_reserved", fail)
    answer = Answer(fresh_server.server.http_address, {"model": "words", "input": "x"})
    assert answer.error == (500, "server_error", None, "INTERNAL")
    assert ("secret" in answer.json["error"]["message"], "secret detail" in caplog.text) == (False, True)
