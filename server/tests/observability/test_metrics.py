"""The metrics of a server after known work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from midrib.registry import AbstractRegistry, Registry
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._front.processes.metrics import FrontCollector
from midrib.server._settings import Settings
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

GATE = "test/embedding/gate"


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"backbone": GATE, **labels})


def embed(stub: Any, rows: int, fill: float) -> None:
    tensor = embedding_pb2.Input(tensor=encode_tensor(np.full((rows, 2), fill, np.float32)))
    stub.Embed(embedding_pb2.EmbedRequest(backbone="gate", input=tensor), timeout=10)


def test_every_item_and_every_batch_is_counted(test_registry: AbstractRegistry) -> None:
    """Three rows answered in two items, one item failed, nothing waits any more."""
    with serving("gate", registry=test_registry) as running, grpc.insecure_channel(running.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        embed(stub, 1, 1)
        embed(stub, 2, 1)
        with pytest.raises(grpc.RpcError, match="explains error"):
            embed(stub, 1, 666)
        metrics = running.server.catalogue.metrics.registry
        counted = {outcome: value(metrics, "midrib_items_total", outcome=outcome) for outcome in OUTCOMES}
        assert counted == {"accepted": 3, "answered": 2, "failed": 1, "rejected": 0, "cancelled": 0, "expired": 0}
        assert value(metrics, "midrib_rows_total") == 3
        assert value(metrics, "midrib_batch_rows_sum") == 4
        assert value(metrics, "midrib_compute_seconds_count") == 3
        assert value(metrics, "midrib_queue_seconds_count") == 2
        assert value(metrics, "midrib_batch_padding_sum") == 0
        assert value(metrics, "midrib_queue_items") == 0
        assert (
            value(metrics, "midrib_backbone", revision=running.server.catalogue.served()[0].description.revision) == 1
        )


def test_every_name_is_documented_and_no_other() -> None:
    """docs/metrics.md is the list; Prometheus' own suffixes aside."""
    documented = set(re.findall(r"^\| `(\w+)`", DOCS.read_text(), re.MULTILINE))
    exposed = {family.name for family in Catalogue(Settings(), Registry("none")).metrics.registry.collect()}
    exposed |= {family.name for family in FrontCollector({}, lambda: 0).collect()}
    assert {name.removesuffix("_total") for name in documented} == exposed


DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
OUTCOMES = ("accepted", "answered", "failed", "rejected", "cancelled", "expired")
