"""LoadBackbone, UnloadBackbone, and the answers to callers meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from torch import nn

from midrib.registry import ExternalRegistry, Registry, TensorInput
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.compute import Compute
from midrib.server._engine.description import ServedDescription, State
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server._server import Server
from midrib.server._settings import BackboneSettings, Settings
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.wire import BackboneLoadingError, BackboneNotFoundError, encode_tensor

LINEAR = "test/embedding/linear"
Argument = backbone_pb2.Argument
Code = grpc.StatusCode


@pytest.fixture()
def admin(test_registry: Registry) -> Iterator[RunningServer]:
    """A separate server: it serves nothing yet, and clients may load."""
    with serving(registry=test_registry, admin=True) as running:
        yield running


@pytest.fixture()
def stubs(admin: RunningServer) -> Iterator[tuple[Any, Any]]:
    with grpc.insecure_channel(admin.address) as channel:
        yield backbone_pb2_grpc.BackboneServiceStub(channel), embedding_pb2_grpc.EmbeddingServiceStub(channel)


def load(*, replace: bool = False, **arguments: Argument) -> backbone_pb2.LoadBackboneRequest:
    return backbone_pb2.LoadBackboneRequest(name="linear", arguments=arguments, replace=replace)


def embed() -> embedding_pb2.EmbedRequest:
    rows = embedding_pb2.Input(tensor=encode_tensor(np.zeros((1, 2), np.float32)))
    return embedding_pb2.EmbedRequest(backbone=LINEAR, input=rows)


def test_a_loaded_backbone_is_served_and_an_unloaded_one_is_gone(stubs: tuple[Any, Any]) -> None:
    """With the arguments that its loader declares."""
    backbones, embedding = stubs
    loaded = backbones.LoadBackbone(load(num_features=Argument(int_value=5)), timeout=20).backbone
    assert (loaded.name, loaded.num_features) == (LINEAR, 5)
    assert list(embedding.Embed(embed(), timeout=10).embedding.shape) == [1, 5]
    backbones.UnloadBackbone(backbone_pb2.UnloadBackboneRequest(name="linear"), timeout=10)
    with pytest.raises(grpc.RpcError, match="no backbone 'test/embedding/linear' is served here"):
        embedding.Embed(embed(), timeout=10)


def test_an_unloaded_backbones_weights_are_free_at_once(admin: RunningServer, stubs: tuple[Any, Any]) -> None:
    """Without waiting for the garbage collector, which may not come by for hours."""
    backbones, _ = stubs
    gc.collect()
    gc.disable()
    try:
        backbones.LoadBackbone(load(), timeout=20)
        weights = weakref.ref(admin.server.catalogue.entry("linear").ready().intake.backbone.module)
        backbones.UnloadBackbone(backbone_pb2.UnloadBackboneRequest(name="linear"), timeout=10)
        assert weights() is None
    finally:
        gc.enable()


def test_loading_again_swaps_the_revision(stubs: tuple[Any, Any]) -> None:
    """A changed argument makes another function, under the same name, if the request says that it replaces the old."""
    backbones, embedding = stubs
    first = backbones.LoadBackbone(load(seed=Argument(int_value=1)), timeout=20).backbone
    with pytest.raises(grpc.RpcError, match="set replace to serve the new one to every client"):
        backbones.LoadBackbone(load(seed=Argument(int_value=2)), timeout=20)
    seed = {"seed": Argument(int_value=2)}
    replacing = backbone_pb2.LoadBackboneRequest(name="linear", arguments=seed, replace=True)
    second = backbones.LoadBackbone(replacing, timeout=20).backbone
    assert first.revision != second.revision
    assert embedding.Embed(embed(), timeout=10).revision == second.revision


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            {"sede": Argument(int_value=1)}, "has no argument 'sede', it has: num_features, seed", id="undeclared"
        ),
        pytest.param({"seed": Argument()}, "argument 'seed' has no value", id="no value"),
        pytest.param({"checkpoint": Argument(string_value="/etc/passwd")}, "looks like a path or a URL", id="path"),
        pytest.param({"checkpoint": Argument(string_value="https://x")}, "looks like a path or a URL", id="url"),
        pytest.param({"checkpoint": Argument(string_value="model.pt")}, "is not for clients to set", id="bare name"),
        pytest.param({"checkpoint": Argument(int_value=3)}, "is not for clients to set", id="file descriptor"),
    ],
)
def test_an_argument_that_is_not_plain_is_refused(
    stubs: tuple[Any, Any], arguments: dict[str, Argument], words: str
) -> None:
    """The server fetches nothing that a client names."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        stubs[0].LoadBackbone(load(replace=False, **arguments), timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT


def test_a_missing_argument_is_named() -> None:
    """The caller must act on the error, so it is not hidden in the log."""
    registry = Registry("required")

    @registry(name="sized", namespace="test/embedding", input=TensorInput((2,)))
    def load_sized(width: int) -> tuple[nn.Module, int]:
        return nn.Linear(2, width), width

    with serving(registry=registry, admin=True) as running, grpc.insecure_channel(running.address) as channel:
        stub: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="missing a required argument: 'width'") as caught:
            stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="sized"), timeout=10)
        assert caught.value.code() is Code.INVALID_ARGUMENT


def test_a_name_of_a_whole_catalogue_is_refused() -> None:
    """It would fetch any name of a client."""
    fetched: list[str] = []

    def fetch(key: str, **_: Any) -> tuple[nn.Module, int]:
        fetched.append(key)
        return nn.Linear(2, 3), 3

    hub = ExternalRegistry(fetch, "hub", names=lambda: ["hub/anything"])
    with serving(registry=hub, admin=True) as running, grpc.insecure_channel(running.address) as channel:
        stub: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="put it into the server's configuration") as caught:
            stub.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="hub/anything"), timeout=10)
    assert (caught.value.code(), fetched) == (Code.INVALID_ARGUMENT, [])


def test_an_unregistered_name_is_not_found(stubs: tuple[Any, Any]) -> None:
    """The error has the registry's nearest names."""
    with pytest.raises(grpc.RpcError, match="linear") as caught:
        stubs[0].LoadBackbone(backbone_pb2.LoadBackboneRequest(name="liner"), timeout=10)
    assert caught.value.code() is Code.NOT_FOUND


def test_only_an_admin_server_lets_clients_load(backbones: Any) -> None:
    """The other servers serve the backbones of their configuration."""
    with pytest.raises(grpc.RpcError, match="start the server with --admin") as caught:
        backbones.LoadBackbone(load(), timeout=10)
    assert caught.value.code() is Code.PERMISSION_DENIED


def test_a_loading_backbone_asks_to_be_tried_again() -> None:
    """UNAVAILABLE until it is warm."""
    go_on = threading.Event()
    registry = Registry("slow")

    @registry(name="linear", namespace="test/embedding", input=TensorInput((2,)))
    def load_slowly() -> tuple[nn.Module, int]:
        go_on.wait(20)
        return nn.Linear(2, 3), 3

    with serving(registry=registry, admin=True) as running, grpc.insecure_channel(running.address) as channel:
        backbones, embedding = backbone_pb2_grpc.BackboneServiceStub(channel), embedding_pb2_grpc.EmbeddingServiceStub(
            channel
        )
        loading = backbones.LoadBackbone.future(load(), timeout=20)
        listed: list[Any] = []
        while not listed:  # until the request has arrived
            listed = list(backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10).backbones)
        with pytest.raises(grpc.RpcError, match="is loading: try again shortly") as caught:
            embedding.Embed(embed(), timeout=10)
        go_on.set()
        assert listed[0].state == backbone_pb2.BACKBONE_STATE_LOADING
        assert caught.value.code() is Code.UNAVAILABLE
        assert loading.result().backbone.state == backbone_pb2.BACKBONE_STATE_READY


async def test_a_backbone_that_waits_to_be_loaded_is_loading() -> None:
    """A backbone of the configuration that waits for the one before it is not unknown."""
    begun, go_on = threading.Event(), threading.Event()
    registry = Registry("slow")

    @registry(name="first", namespace="test/embedding", input=TensorInput((2,)))
    def load_first() -> tuple[nn.Module, int]:
        begun.set()
        go_on.wait(20)
        return nn.Linear(2, 3), 3

    @registry(name="second", namespace="test/embedding", input=TensorInput((2,)))
    def load_second() -> tuple[nn.Module, int]:
        return nn.Linear(2, 4), 4

    backbones = (BackboneSettings(name="first"), BackboneSettings(name="second"))
    server = Server(Settings(port=0, threads=1, backbones=backbones), registry=registry)
    await server.start()
    loading = asyncio.create_task(server.load())
    await asyncio.to_thread(begun.wait, 20)
    state = server.catalogue.entry("second").state
    go_on.set()
    await loading
    await server.stop(grace_s=5)
    assert state is State.LOADING


async def test_names_are_loading_while_the_server_starts() -> None:
    """Its modules are not imported yet: a client that reconnects must wait, without the error for a wrong name."""
    server = Server(Settings(port=0, threads=1), registry=Registry("none"))
    await server.start()
    with pytest.raises(BackboneLoadingError, match="the server is starting"):
        server.catalogue.entry("second")
    await server.load()
    with pytest.raises(BackboneNotFoundError, match="no backbone 'second' is served here"):
        server.catalogue.entry("second")
    await server.stop(grace_s=5)


async def test_a_replica_that_cannot_start_takes_the_others_with_it() -> None:
    """The error of the loading is raised, and no thread remains."""

    def broken() -> Compute:
        raise MemoryError("no room on the second device")

    described = ServedDescription("test/embedding/pair", "0", 2, TensorInput((2,)), "cpu", "float32", "")
    limits = BatchLimits(max_rows=1, max_cost=1, max_queue_items=1, max_queue_cost=1)
    served = ServedBackbone(described, [lambda: Forward(nn.Linear(2, 2), TensorInput((2,))), broken], limits)
    with pytest.raises(MemoryError, match="no room on the second device"):
        await served.start()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("replica-test/embedding/pair")]
    for thread in threads:
        thread.join(20)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)


@pytest.fixture()
def small(test_registry: Registry) -> Iterator[Any]:
    """A server with room for the weights of one linear backbone of 3 features (36 bytes), and `gate` without any."""
    with (
        serving(registry=test_registry, admin=True, device_memory_bytes=40) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield backbone_pb2_grpc.BackboneServiceStub(channel)


def names(stub: Any) -> list[str]:
    return [backbone.name for backbone in stub.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10).backbones]


def test_an_idle_backbone_leaves_for_one_that_needs_its_room(small: Any, test_registry: Registry) -> None:
    """The answer names the unloaded backbone."""
    with test_registry.temporary():
        test_registry(load_second, name="second", namespace="test/embedding", input=TensorInput((2,)))
        small.LoadBackbone(load(), timeout=20)
        message = backbone_pb2.LoadBackboneRequest(name="second")
        planned = small.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="second", dry_run=True), timeout=20)
        assert (list(planned.unloaded), names(small)) == ([LINEAR], [LINEAR])
        loaded = small.LoadBackbone(message, timeout=20)
        assert (list(loaded.unloaded), names(small)) == ([LINEAR], ["test/embedding/second"])


def test_a_pinned_backbone_stays(small: Any, test_registry: Registry) -> None:
    """A backbone that does not fit beside it is refused, and the served one stays."""
    with test_registry.temporary():
        test_registry(load_second, name="second", namespace="test/embedding", input=TensorInput((2,)))
        small.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="linear", pinned=True), timeout=20)
        with pytest.raises(grpc.RpcError, match="36 bytes of weights do not fit: the budget is 40") as caught:
            small.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="second"), timeout=20)
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED


def load_second() -> tuple[nn.Module, int]:
    return nn.Linear(2, 3), 3
