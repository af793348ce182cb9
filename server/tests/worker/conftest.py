"""Servers whose backbones a fresh process can import, and calls to them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from midrib.registry import Registry
from midrib.server._catalogue.processes import host_in_processes
from midrib.server._engine.compute import Compute
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker.compute import WorkerCompute
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def misbehaving() -> Iterator[Registry]:
    """The registry of misbehaving.py, imported by a name that a fresh process finds too."""
    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    registry: Registry = importlib.import_module("misbehaving").REGISTRY
    yield registry
    sys.path.remove(folder)


@pytest.fixture()
def serve(misbehaving: Registry) -> Serve:
    """`serving` with worker processes, and with the registry of misbehaving.py."""

    def serve_them(*backbones: str | dict[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
        return serving(*backbones, registry=misbehaving, **{"workers": "process", "warm_up_s": 0.0, **settings})

    return serve_them


@pytest.fixture()
def compute_of(misbehaving: Registry) -> Iterator[Callable[..., WorkerCompute]]:
    """Start the worker of a backbone, with settings; ended after the test."""
    started: list[Compute] = []

    def compute(name: str, arguments: dict[str, Any] | None = None, **settings: Any) -> WorkerCompute:
        wanted = BackboneSettings(name=name, arguments=arguments or {})
        hosted = host_in_processes(wanted, Settings(**{"warm_up_s": 0.0, "threads": 1, **settings}), misbehaving)
        started.append(hosted.workers[0].compute())
        return cast(WorkerCompute, started[-1])

    yield compute
    for each in started:
        each.close()


@pytest.fixture()
def embed() -> Callable[..., list[Array | str]]:
    """Embed each input by a call of its own, all at once: the rows, or the name of the status."""

    def embed_all(running: RunningServer, *inputs: embedding_pb2.Input, backbone: str) -> list[Array | str]:
        with grpc.insecure_channel(running.address) as channel, ThreadPoolExecutor(32) as pool:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            requests = [embedding_pb2.EmbedRequest(backbone=backbone, input=given) for given in inputs]
            return list(pool.map(lambda request: _outcome(stub, request), requests))

    return embed_all


def _outcome(stub: Any, request: embedding_pb2.EmbedRequest) -> Array | str:
    try:
        return decode_tensor(stub.Embed(request, timeout=60).embedding, field="embedding")
    except grpc.RpcError as error:
        return str(error.code().name)
