"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from midrib.remote._stream import context, sharing
from midrib.server.testing import RunningServer, serving


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of the test file's backbone: `NAME` in its `REGISTRY`."""
    with serving(request.module.NAME, registry=request.module.REGISTRY) as running:
        yield running


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, server: RunningServer) -> str:
    """The URL of the test file's backbone."""
    return server.url(request.module.NAME)


@pytest.fixture()
def child_environment() -> dict[str, str]:
    """The environment of a child process with the import path of this one; its children have it too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(params=["network", "shared memory"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the rows of the clients of this process travel: all in messages, or all tensors in shared memory."""
    if request.param == "network":
        monkeypatch.setattr(context, "can_share_memory", lambda: False)
    else:  # however small
        monkeypatch.setattr(sharing, "_LEAST_INPUT_BYTES", 0)
        monkeypatch.setattr(sharing, "_LEAST_RESULT_BYTES", 1)
    return str(request.param)


@pytest.fixture()
def lose_replica() -> Callable[[RunningServer, str], None]:
    """End the thread of a backbone's replica: it takes a job that is not one."""

    def lose(running: RunningServer, name: str) -> None:
        replica: Any = running.server.catalogue.entry(name).ready().served._replicas[0]
        replica._jobs.put(object())

    return lose
