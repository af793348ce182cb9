"""The options of a backbone work in the same way in threads of the server and in worker processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from midrib.remote import Client
from midrib.server.testing import RunningServer

ServeKind = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(params=["thread", "process"])
def serve_kind(request: pytest.FixtureRequest, serve: ServeKind) -> ServeKind:
    """`serve` with one kind of workers."""
    return partial(serve, workers=request.param)


def rows(count: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)


def test_strict_mode_gives_the_same_bits_alone_and_in_a_batch(serve_kind: ServeKind) -> None:
    """Every row is computed alone."""
    inputs = rows(33)
    with serve_kind("layer", strict=True) as running, Client(running.address, timeout=60) as client:
        together = np.asarray(client.embed("layer", inputs))
        separate = [np.asarray(client.embed("layer", inputs[index : index + 1]))[0] for index in range(len(inputs))]
    assert np.array_equal(together, np.stack(separate))


def test_a_compiled_module_gives_the_rows_of_the_module(serve_kind: ServeKind) -> None:
    """By a backend that needs no C compiler."""
    with (
        serve_kind({"name": "doubling", "compile": "eager"}) as running,
        Client(running.address, timeout=60) as client,
    ):
        assert np.asarray(client.embed("doubling", np.ones((3, 2), np.float32))).tolist() == [[2.0, 2.0]] * 3


def test_a_load_measures_a_plan_that_the_server_knows(serve_kind: ServeKind) -> None:
    """Threads, parallel passes and micro-batches, for `midrib serve` to print."""
    with serve_kind("layer", warm_up_s=0.2, threads=1, replicas=2) as running:
        plan = running.server.catalogue.entry("layer").ready().plan
    assert plan is not None
    assert plan.fields == {"threads": 1, "width": 1, "micro_batch_elements": None}


def test_an_idle_backbone_makes_room_and_a_pinned_one_stays(serve_kind: ServeKind) -> None:
    """Of 36, 1,600 and 36 bytes of weights, 1,650 fit: the second backbone is unloaded for the third."""
    pinned = {"name": "layer", "pinned": True}
    with (
        serve_kind(pinned, admin=True, device_memory_bytes=1650) as running,
        Client(running.address, timeout=60) as client,
    ):
        client.load("words")
        client.load("random")
        names = {info.name for info in client.list()}
    assert names == {"test/embedding/layer", "test/embedding/random"}


def test_the_metrics_have_the_same_names(serve_kind: ServeKind) -> None:
    """Batches, rows, items and seconds of a backbone, and the restarts of its workers."""
    with serve_kind("doubling") as running, Client(running.address, timeout=60) as client:
        client.embed("doubling", np.ones((3, 2), np.float32))
        text = generate_latest(running.server.catalogue.metrics.registry).decode()
    values = dict(re.findall(r'^(midrib_\w+)\{backbone="test/embedding/doubling"\} ([0-9.]+)$', text, re.M))
    assert values["midrib_worker_restarts_total"] == "0.0"
    assert values["midrib_rows_total"] == "3.0"
