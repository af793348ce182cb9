"""`midrib.remote.testing`: the function with which users' tests start servers with."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from midrib.remote import RemoteBackbone
from midrib.remote.testing import RunningServer, midrib_server, serving

MLP = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}

__all__ = ["midrib_server"]  # a fixture is used by its name


def test_a_server_lives_as_long_as_its_block() -> None:
    """On a free port, ready on entry."""
    with serving(MLP) as server:
        assert RemoteBackbone(server.url(str(MLP["name"])))(torch.zeros(3, 8)).shape == (3, 128)


def test_the_fixture_starts_servers(midrib_server: Callable[..., RunningServer]) -> None:
    """Several in one test, each at another address."""
    servers = [midrib_server(MLP) for _ in range(2)]
    assert len({server.address for server in servers}) == 2


def test_the_error_without_the_server_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's wheel does not bring the server's."""
    monkeypatch.setitem(sys.modules, "midrib.server.testing", None)
    with pytest.raises(ImportError, match="pip install midrib-server"):
        serving(MLP)
