"""A real server in a test's own process, on a free port: for the tests of code that calls one.

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
        """Where it listens: "127.0.0.1:port"."""
        ...

    def url(self, name: str) -> str:
        """The grpc:// URL of a backbone: what `RemoteBackbone` and `Task(backbone=...)` take."""
        ...


def serving(*backbones: str | Mapping[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
    """Serve backbones on a free loopback port, ready on entry and drained on exit.

    backbones: names, or mappings with "name" and the loader's "arguments".  settings: `registry`, where the names are
    looked up (BACKBONES), and the fields of the server's configuration, such as admin=True.
    Raises ImportError where midrib-server is not installed, and what loading raises.
    """
    try:
        # By its name, when it is called: the server stands above this library, whose users rarely have it.
        server = importlib.import_module("midrib.server.testing")
    except ModuleNotFoundError as error:
        raise ImportError(f"midrib.remote.testing runs a real server ({error}): pip install midrib-server") from error
    return cast("AbstractContextManager[RunningServer]", server.serving(*backbones, **settings))


if pytest is not None:

    @pytest.fixture()
    def midrib_server() -> Iterator[Callable[..., RunningServer]]:
        """Starts servers, with the arguments of `serving`; they end with the test."""
        with ExitStack() as servers:
            yield lambda *backbones, **settings: servers.enter_context(serving(*backbones, **settings))

    __all__ += ["midrib_server"]
