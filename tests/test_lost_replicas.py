"""Replicas that are lost while they compute, and backbones that do not load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc
from tests.invalid_requests import (
    EMBED,
    LOADING,
    MAY_LOAD,
    REGISTRY,
    call,
    request,
)

LoseReplica = Callable[[RunningServer, str], None]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("double", "words", registry=REGISTRY, max_message_bytes=16 * 1024) as running:
        yield running


@pytest.fixture()
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


def test_items_of_a_lost_replica_are_counted(
    server: RunningServer, channel: grpc.Channel, lose_replica: LoseReplica
) -> None:
    """Else the backbone never counts as idle again, and can never leave for another."""
    lose_replica(server, "double")
    with pytest.raises(grpc.RpcError, match="the replica that ran this item was lost"):
        call(channel, EMBED, request(np.ones((1, 2), np.float32)).SerializeToString())
    assert server.server.catalogue.entry("double").ready().served.idle


def test_a_backbone_whose_replica_cannot_be_replaced_says_so() -> None:
    """Its items fail as retriable and its health is NOT_SERVING; they do not wait for a device that will not come."""
    breaking, usual = (request(np.full((1, 2), value, np.float32), "fragile") for value in (-13, 1))
    with serving("fragile", registry=REGISTRY) as fragile, grpc.insecure_channel(fragile.address) as to_running:
        with pytest.raises(grpc.RpcError, match="failed on this item"):
            call(to_running, EMBED, breaking.SerializeToString())
        with pytest.raises(grpc.RpcError, match="could not be replaced") as caught:
            call(to_running, EMBED, usual.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        health: Any = health_pb2_grpc.HealthStub(to_running)
        health_request = health_pb2.HealthCheckRequest(service="test/embedding/fragile")
        assert health.Check(health_request, timeout=20).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_why_a_backbone_failed_to_load_is_for_the_log() -> None:
    """A loader's exception may name files; clients get an error id."""
    with serving(registry=REGISTRY, admin=True) as fragile, grpc.insecure_channel(fragile.address) as channel:
        backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="log explains error"):
            backbones.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="unreadable"), timeout=20)
        (listener,) = backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20).backbones
        assert listener.state == backbone_pb2.BACKBONE_STATE_FAILED
        assert "log explains error" in listener.error
        with pytest.raises(grpc.RpcError, match="log explains error") as caught:
            call(channel, EMBED, request(np.ones((1, 2)), "unreadable").SerializeToString())
        assert "secret" not in listener.error + str(caught.value.details())


def test_unloading_waits_for_the_loading_of_the_same_name() -> None:
    """Otherwise the backbone that is loaded at last has no name, and its thread never ends."""
    with serving(registry=REGISTRY, admin=True) as fragile, grpc.insecure_channel(fragile.address) as channel:
        backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        loading = backbones.LoadBackbone.future(backbone_pb2.LoadBackboneRequest(name="late"), timeout=20)
        assert LOADING.wait(20)
        unloading = backbones.UnloadBackbone.future(backbone_pb2.UnloadBackboneRequest(name="late"), timeout=20)
        backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20)
        MAY_LOAD.set()
        loading.result()
        unloading.result()
        assert not backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20).backbones
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("replica-test/embedding/late")
    ]
