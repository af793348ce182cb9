"""The options of a backbone work in the same way in threads of the server and in worker processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from midrib.remote import Client
from midrib.server._calibration.parity import ParityError
from midrib.server.testing import RunningServer
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.wire import BackboneNotFoundError, decode_tensor, encode_tensor

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
    """The backend of the test needs no C compiler."""
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


def test_a_dry_run_describes_a_backbone_and_serves_nothing(serve_kind: ServeKind) -> None:
    """It loads the backbone, says how it would be served, and ends it."""
    with serve_kind(admin=True) as running, grpc.insecure_channel(running.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        planned = stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="layer", dry_run=True), timeout=60).backbone
        with Client(running.address, timeout=60) as client:
            assert client.list() == []
            with pytest.raises(BackboneNotFoundError, match="layer"):
                client.embed("layer", rows(1))
            loaded = client.load("layer")
    assert (planned.name, planned.revision, planned.num_features) == (loaded.name, loaded.revision, loaded.num_features)


def test_a_drain_computes_the_accepted_items(serve_kind: ServeKind) -> None:
    """Each of eight calls that are in flight when the server stops gets its rows."""
    with serve_kind("slow", max_batch_rows=32) as running, grpc.insecure_channel(running.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        counts = running.server.catalogue.entry("slow").ready().served.batcher.counts
        requests = [
            embedding_pb2.EmbedRequest(
                backbone="slow",
                input=embedding_pb2.Input(tensor=encode_tensor(np.full((32, 2), number, np.float32))),
            )
            for number in range(8)
        ]
        calls = [stub.Embed.future(request, timeout=60) for request in requests]
        assert stub.Embed(requests[0], timeout=60).revision  # accepted after the others
        assert counts.accepted >= 1
        running.run(running.server.stop(30.0))
        answers = [decode_tensor(call.result().embedding, field="embedding") for call in calls]
    assert [answer.tolist() for answer in answers] == [[[2.0 * number] * 2] * 32 for number in range(8)]


def test_a_call_has_the_spans_of_its_wait_and_its_computation(serve_kind: ServeKind) -> None:
    """The time in the queue ends when the computation begins; both belong to the call."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with serve_kind("doubling", tracer_provider=provider) as running, Client(running.address, timeout=60) as client:
        client.embed("doubling", np.ones((3, 2), np.float32))
        running.run(running.server.stop(10.0))
    by_name = {span.name: span for span in spans.get_finished_spans()}
    queue, compute = by_name["queue"], by_name["compute"]
    attributes = dict(compute.attributes or {})
    assert (attributes["midrib.backbone"], attributes["midrib.batch_rows"]) == ("test/embedding/doubling", 3)
    assert queue.end_time == compute.start_time
    assert compute.end_time is not None
    assert compute.start_time is not None
    assert compute.end_time > compute.start_time
    assert queue.parent == compute.parent
    assert queue.parent is not None


def test_a_backbone_that_differs_in_a_batch_is_not_served(serve_kind: ServeKind) -> None:
    """The parity check finds that a row depends on the rows beside it."""
    with pytest.raises(ParityError, match="differs from its own module"), serve_kind("mixing"):
        pass
