"""Loads and unloads run to their end, although the caller leaves or another change comes between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.server._engine.description import State
from midrib.server._settings import BackboneSettings
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc
from midrib.wire import InvalidInputError

REGISTRY = Registry("transactions")
LOADING, MAY_LOAD = threading.Event(), threading.Event()


@REGISTRY(name="slow", namespace="test/embedding", input=TensorInput((2,)))
def load_slow() -> tuple[nn.Module, int]:
    LOADING.set()
    MAY_LOAD.wait(20)
    return nn.Identity(), 2


@REGISTRY(name="exits", namespace="test/embedding", input=TensorInput((2,)))
def load_exits() -> tuple[nn.Module, int]:
    raise SystemExit(0)


@REGISTRY(name="wide", namespace="test/embedding", input=TensorInput((2,)))
def load_wide(width: int = 2) -> tuple[nn.Module, int]:
    return nn.Linear(2, width), width


@pytest.fixture()
def admin() -> Iterator[RunningServer]:
    LOADING.clear()
    MAY_LOAD.clear()
    with serving(registry=REGISTRY, admin=True, warm_up_s=0.0) as running:
        yield running


async def state_after_cancelled_load(running: RunningServer) -> State:
    catalogue = running.server.catalogue
    loading = asyncio.create_task(catalogue.load(BackboneSettings(name="slow")))
    await asyncio.to_thread(LOADING.wait, 20)
    loading.cancel()
    await asyncio.wait({loading})
    MAY_LOAD.set()
    await asyncio.gather(*catalogue._changes)
    return catalogue.entry("slow").state


def test_a_load_whose_caller_leaves_ends_ready(admin: RunningServer) -> None:
    """The load ends without its caller, and does not stay LOADING."""
    assert admin.run(state_after_cancelled_load(admin)) is State.READY


async def state_after_load_during_unload(running: RunningServer) -> State:
    catalogue = running.server.catalogue
    MAY_LOAD.set()
    await catalogue.load(BackboneSettings(name="slow"))
    unloading = asyncio.create_task(catalogue.unload("slow"))
    await asyncio.sleep(0)
    await catalogue.load(BackboneSettings(name="slow"))
    await unloading
    return catalogue.entry("slow").state


def test_a_load_during_an_unload_is_served(admin: RunningServer) -> None:
    """The load waits for the unload, and serves afterwards."""
    assert admin.run(state_after_load_during_unload(admin)) is State.READY


def test_a_loader_that_exits_fails_its_load_alone(admin: RunningServer) -> None:
    """The server continues and says that the backbone failed."""
    with grpc.insecure_channel(admin.address) as channel:
        stub = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="INTERNAL"):
            stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="exits"), timeout=20)
        (failed,) = stub.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10).backbones
    assert failed.state == backbone_pb2.BACKBONE_STATE_FAILED


def test_other_arguments_replace_a_backbone_only_if_the_caller_says_so(admin: RunningServer) -> None:
    """Every client of the name would get other features."""
    catalogue = admin.server.catalogue
    for width in (2, 2):
        admin.run(catalogue.load(BackboneSettings(name="wide", arguments={"width": width}), replace=False))
    three = BackboneSettings(name="wide", arguments={"width": 3})
    with pytest.raises(InvalidInputError, match=r"served with arguments \{'width': 2\}, received \{'width': 3\}"):
        admin.run(catalogue.load(three, replace=False))
    entry, _ = admin.run(catalogue.load(three, replace=True))
    assert entry.ready().served.description.num_features == 3
