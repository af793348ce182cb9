"""Calls for a backbone that the server still loads wait, within their timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from midrib.backbones import load_backbone
from midrib.registry import Registry, TensorInput
from midrib.remote import BackboneInfo, Client, RemoteBackbone, embed_files
from midrib.remote.testing import RunningServer, serving
from midrib.wire import BackboneLoadingError

READY, SLOW = "test/loading/ready", "test/loading/slow"


class Loading:
    """A backbone whose loader waits until the test lets it continue."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.registry = Registry("test")
        input_spec = TensorInput((4,))
        self.registry(lambda: (nn.Identity(), 4), name="ready", namespace="test/loading", input=input_spec)
        self.registry(self._slow, name="slow", namespace="test/loading", input=input_spec)

    def _slow(self) -> tuple[nn.Module, int]:
        self.may_end.wait(60)
        return nn.Identity(), 4


@pytest.fixture()
def loading() -> Iterator[Loading]:
    loading = Loading()
    yield loading
    loading.may_end.set()


@pytest.fixture()
def server(loading: Loading) -> Iterator[RunningServer]:
    """A server that is loading SLOW."""
    with serving(READY, registry=loading.registry, admin=True) as server, Client(server.address) as client:
        loader = threading.Thread(target=lambda: client.load(SLOW))
        loader.start()
        while SLOW not in {info.name for info in client.list(wait=False)}:
            continue
        yield server
        loading.may_end.set()
        loader.join()


def test_a_remote_backbone_waits_for_its_backbone(
    server: RunningServer, loading: Loading, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line that says so."""
    threading.Timer(0.5, loading.may_end.set).start()
    backbone = RemoteBackbone(server.url(SLOW), timeout=30.0)
    assert torch.equal(backbone(torch.ones(1, 4)), torch.ones(1, 4))
    assert [record.message.split(" at ")[0] for record in caplog.records if record.name == "midrib.remote"] == [
        f"waiting for {SLOW}"
    ]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.describe(SLOW), id="describe"),
        pytest.param(lambda client: client.list()[-1], id="list"),
    ],
)
def test_a_description_waits_for_its_backbone(
    server: RunningServer, loading: Loading, caplog: pytest.LogCaptureFixture, call: Callable[[Client], BackboneInfo]
) -> None:
    """The description is that of the loaded backbone; one log line says that the call waited."""
    threading.Timer(0.5, loading.may_end.set).start()
    info = call(Client(server.address))
    assert (info.name, info.state, info.num_features) == (SLOW, "ready", 4)
    assert len([record for record in caplog.records if record.name == "midrib.remote"]) == 1


def test_a_description_can_show_that_a_backbone_is_loading(server: RunningServer) -> None:
    """wait=False returns at once, with the state."""
    client = Client(server.address, timeout=5.0)
    states = {info.name: info.state for info in client.list(wait=False)}
    assert (client.describe(SLOW, wait=False).state, states) == ("loading", {READY: "ready", SLOW: "loading"})


def test_a_list_whose_time_is_up_shows_the_states(server: RunningServer) -> None:
    """The backbones that are ready are of use, although another one still loads."""
    assert [info.state for info in Client(server.address, timeout=1.0).list()] == ["ready", "loading"]


def test_a_description_waits_no_longer_than_the_timeout(server: RunningServer) -> None:
    """The error says that the backbone is loading, and what to do."""
    with pytest.raises(BackboneLoadingError, match=r"is loading: raise timeout=1"):
        Client(server.address, timeout=1.0).describe(SLOW)


def test_embed_files_waits_for_its_backbone(server: RunningServer, loading: Loading, tmp_path: Path) -> None:
    """It starts once the backbone is loaded."""
    np.save(tmp_path / "rows.npy", np.ones((2, 4), np.float32))
    threading.Timer(0.5, loading.may_end.set).start()
    assert embed_files(server.url(SLOW), [tmp_path / "rows.npy"], tmp_path / "out.npy").done == 2


def test_embed_files_ends_with_the_timeout(server: RunningServer, tmp_path: Path) -> None:
    """Its error says that the backbone is loading."""
    np.save(tmp_path / "rows.npy", np.ones((2, 4), np.float32))
    with pytest.raises(BackboneLoadingError, match="is loading"):
        embed_files(server.url(SLOW), [tmp_path / "rows.npy"], tmp_path / "out.npy", timeout=1.0)


def test_load_backbone_waits_for_a_served_backbone(server: RunningServer, loading: Loading) -> None:
    """A Task with a grpc:// name opens it in the same way."""
    threading.Timer(0.5, loading.may_end.set).start()
    assert load_backbone(server.url(SLOW)).num_features == 4


def test_the_wait_ends_with_the_timeout(server: RunningServer) -> None:
    """The error says that it is loading, and what to raise."""
    with pytest.raises(BackboneLoadingError, match=r"is loading: raise timeout=1"):
        RemoteBackbone(server.url(SLOW), timeout=1.0)
