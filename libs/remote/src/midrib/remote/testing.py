"""A real server in the test's process, on a free port, for the tests of code that calls a server.

    from midrib.remote.testing import serving

    with serving({"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}) as server:
        backbone = RemoteBackbone(server.url("template/classification/mlp-128"))

With pytest, `pytest_plugins = ["midrib.remote.testing"]` in conftest.py gives the fixture `midrib_server`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, cast

try:
    import pytest
except ImportError:  # the context manager needs no pytest
    pytest = None  # type: ignore[assignment] # it is optional

__all__ = ["RunningServer", "serving"]


class RunningServer(Protocol):
    """A server that answers."""

    @property
    def address(self) -> str:
        """The address on which it listens, "127.0.0.1:port"."""
        ...

    def url(self, name: str) -> str:
        """Return the grpc:// URL of a backbone, for `RemoteBackbone` and `Task(backbone=...)`."""
        ...


def serving(*backbones: str | Mapping[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
    """Serve backbones on a free loopback port, ready on entry and drained on exit.

    backbones: names, or mappings with "name" and the loader's "arguments".  settings: `registry`, to look the names up
    in (by default BACKBONES), and the fields of the server's configuration, such as admin=True. Backbones compute in
    threads of this process, so that those of a test are found; workers="process" is the default of `midrib serve`.
    Raises ImportError if midrib-server is not installed, and the errors of loading.
    """
    try:
        # Imported by name and only here, because the server depends on this library and is rarely installed beside it.
        server = importlib.import_module("midrib.server.testing")
    except ModuleNotFoundError as error:
        raise ImportError(f"midrib.remote.testing runs a real server ({error}): pip install midrib-server") from error
    return cast("AbstractContextManager[RunningServer]", server.serving(*backbones, **settings))


if pytest is not None:

    @pytest.fixture()
    def midrib_server() -> Iterator[Callable[..., RunningServer]]:
        """Return a function that starts servers, with the arguments of `serving`; they end with the test."""
        with ExitStack() as servers:
            yield lambda *backbones, **settings: servers.enter_context(serving(*backbones, **settings))

    __all__ += ["midrib_server"]
