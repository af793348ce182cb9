"""Servers for the tests of the HTTP port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving


@pytest.fixture(scope="module")
def address(media_server: RunningServer) -> str | None:
    """The HTTP address of a server of `picture`, `words` and `linear`, which accepts token ids."""
    return media_server.server.http_address


@pytest.fixture()
def fresh_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server of `words` that no other test uses."""
    with serving("words", registry=test_registry, http_port=0) as running:
        yield running
