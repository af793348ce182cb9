"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

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
    """The environment of a child process that imports what this process imports; so do its children."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
