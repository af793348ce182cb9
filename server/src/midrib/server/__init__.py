"""The server: registered backbones on GPUs or CPUs, embeddings over gRPC."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midrib.server._load_settings import load_settings
    from midrib.server._server import Server
    from midrib.server._settings import BackboneSettings, Settings

__all__ = ["BackboneSettings", "Server", "Settings", "load_settings"]

# Found on first use, so that the command `midrib list` starts without torch and grpc.
_HOMES = {
    "BackboneSettings": "midrib.server._settings",
    "Server": "midrib.server._server",
    "Settings": "midrib.server._settings",
    "load_settings": "midrib.server._load_settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'midrib.server' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
