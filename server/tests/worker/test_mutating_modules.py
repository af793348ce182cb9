"""Modules that change their input, use memory again, or raise unusual errors, in both kinds of workers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import Array, InternalError, encode_tensor

ServeKind = Callable[..., AbstractContextManager[RunningServer]]
Embed = Callable[..., list[Array | str]]
TRIGGER = 666.0


@pytest.fixture(params=["thread", "process"])
def serve_kind(request: pytest.FixtureRequest, misbehaving: Registry) -> ServeKind:  # its folder can be imported
    """`serving` with one kind of workers, and with the registry of mutating.py."""
    registry: Registry = importlib.import_module("mutating").REGISTRY

    def serve(*backbones: str | dict[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
        return serving(*backbones, registry=registry, workers=request.param, warm_up_s=0.0, **settings)

    return serve


@pytest.mark.parametrize("change", ["transposes", "squeezes", "takes-other-memory", "shares-memory", "shrinks"])
def test_a_module_that_changes_its_input_in_place_spoils_no_later_item(serve_kind: ServeKind, change: str) -> None:
    """Batches of one shape are staged in the same memory, but their tensors are new."""
    item = np.array([[1, 2], [3, 4]], np.float32)
    with (
        serve_kind({"name": "changing", "arguments": {"change": change}}) as running,
        Client(running.address) as client,
    ):
        for _ in range(3):  # through all buffers
            try:
                client.embed("changing", np.full((2, 2), TRIGGER, np.float32))
            except InternalError:
                assert change in ("squeezes", "shrinks")  # its output then has another number of rows
            assert np.asarray(client.embed("changing", item)).tolist() == [[2, 4], [6, 8]]


def test_a_module_may_return_the_same_memory_every_time(serve_kind: ServeKind, embed: Embed) -> None:
    """Rows are copied before the next pass overwrites them, also while many calls wait for theirs."""
    items = [np.full((1 + number % 300, 2), number, np.float32) for number in range(400)]
    inputs = [embedding_pb2.Input(tensor=encode_tensor(item)) for item in items]
    with serve_kind("reusing", max_batch_rows=512) as running:
        outcomes = embed(running, *inputs, backbone="reusing")
    wrong = [number for number, rows in enumerate(outcomes) if not np.array_equal(np.asarray(rows), 2 * items[number])]
    assert wrong == []


@pytest.mark.parametrize("name", ["remembering", "writing-later"])
def test_a_module_may_keep_its_inputs(serve_kind: ServeKind, name: str) -> None:
    """Their memory is not used again: a cache would find every later batch in it, and a thread would write over it."""
    items = [np.full((2, 2), value, np.float32) for value in range(1, 9)]
    with serve_kind(name) as running, Client(running.address) as client:
        rows = [np.asarray(client.embed(name, item)).tolist() for item in items]
    assert rows == [(2 * item).tolist() for item in items]


def test_a_module_may_change_its_input_in_every_pass(serve_kind: ServeKind) -> None:
    """It is loaded: the comparison at load gives the module and the engine the same inputs."""
    with serve_kind("normalizing") as running, Client(running.address) as client:
        assert np.asarray(client.embed("normalizing", np.array([[1, 2]], np.float32))).tolist() == [[0, 2]]


def test_a_tokenizer_that_cannot_be_pickled_has_its_backbone_in_a_thread(
    serve_kind: ServeKind, caplog: pytest.LogCaptureFixture
) -> None:
    """The server tokenises, so a process beside it would have to send the tokenizer."""
    with (
        caplog.at_level(logging.WARNING, "midrib.server._catalogue.loading"),
        serve_kind("locked-tokenizer") as running,
        Client(running.address, timeout=60) as client,
    ):
        assert np.asarray(client.embed("locked-tokenizer", ["a text"])).shape == (1, 2)
        in_process = running.server.settings.workers == "process"
    assert ("its tokenizer cannot be pickled" in caplog.text) is in_process


def test_an_error_whose_message_cannot_be_made_is_logged_with_its_id(
    serve_kind: ServeKind, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the id, so the log must have it."""
    with serve_kind("wordless") as running, Client(running.address, timeout=60) as client:
        with pytest.raises(InternalError, match="the server's log explains error") as caught:
            client.embed("wordless", np.full((1, 2), TRIGGER, np.float32))
        assert np.asarray(client.embed("wordless", np.ones((1, 2), np.float32))).tolist() == [[2, 2]]
    error_id = str(caught.value).rpartition(" ")[2]
    assert [record for record in caplog.records if error_id in record.getMessage()] != []


def test_a_loader_that_exits_with_an_unprintable_object_fails_its_load(serve_kind: ServeKind) -> None:
    """The load ends; it would wait for ever if the error could not be described."""
    with pytest.raises(Exception, match="SystemExit|exited with status 1"), serve_kind("exits-unprintably"):
        pass


def test_a_module_that_deletes_its_weights_is_loaded_again(serve_kind: ServeKind) -> None:
    """Otherwise every later item would fail. The item that deletes them is refused."""
    item = np.array([[1, 2], [3, 4]], np.float32)
    with serve_kind("forgetting", replicas=2) as running, Client(running.address, timeout=60) as client:
        for _ in range(2):
            with pytest.raises(InternalError, match="the server's log explains error|the backbone's process ended"):
                client.embed("forgetting", np.full((1, 2), TRIGGER, np.float32))
            assert np.asarray(client.embed("forgetting", item)).tolist() == [[2, 4], [6, 8]]


def test_no_item_finds_the_replica_lost_that_an_earlier_item_has_broken(serve_kind: ServeKind, embed: Embed) -> None:
    """Its module is loaded again at once. These callers do not try again."""
    inputs = [embedding_pb2.Input(tensor=encode_tensor(np.full((1, 2), value, np.float32))) for value in (TRIGGER, 1.0)]
    with serve_kind("forgetting") as running:
        outcomes = [embed(running, message, backbone="forgetting")[0] for message in inputs]
    assert [np.asarray(outcome).tolist() for outcome in outcomes] == ["INTERNAL", [[2, 2]]]


def test_a_scripted_module_is_served(serve_kind: ServeKind) -> None:
    """A ScriptModule lacks some methods of other modules; its weights are shared all the same."""
    item = np.array([[1, 2], [3, 4]], np.float32)
    with serve_kind("scripted", replicas=2) as running, Client(running.address, timeout=60) as client:
        assert np.asarray(client.embed("scripted", item)).tolist() == item.tolist()
