"""A server in another process, and connections that send any frames."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.tests.grpc.http2_frames import Connection
from server.tests.grpc.server_process import ServerProcess


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for hostile connections; at the end it stops cleanly, and its log never shows the token."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    yield process
    status = process.stop()
    assert (status, process.secret in process.log) == (0, False)


@pytest.fixture()
def connection(server_process: ServerProcess) -> Iterator[Connection]:
    """A connection to it."""
    opened = Connection(server_process.address)
    yield opened
    opened.close()
