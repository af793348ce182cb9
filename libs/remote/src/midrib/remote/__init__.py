"""Served backbones: `Client` (numpy) and `RemoteBackbone` (torch)."""

from __future__ import annotations

import importlib
import warnings

# Type checkers know the name. An import of typing would take a third of the time that the command needs to start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from midrib.remote._clients.async_client import AsyncClient
    from midrib.remote._clients.client import Client
    from midrib.remote._clients.options import EmbedOptions, StreamOptions
    from midrib.remote._connect.address import Tls
    from midrib.remote._connect.backbone_info import BackboneInfo
    from midrib.remote._doctor.checks import doctor
    from midrib.remote._doctor.network import Verdict
    from midrib.remote._files.embed_files import Progress, embed_files
    from midrib.remote._files.embedders import ValueEmbedder
    from midrib.remote._stream.timing import StageTimes
    from midrib.remote._torch.registry import RemoteRegistry
    from midrib.remote._torch.remote_backbone import RemoteBackbone, open_url

__all__ = [
    "AsyncClient",
    "BackboneInfo",
    "Client",
    "EmbedOptions",
    "Progress",
    "RemoteBackbone",
    "RemoteRegistry",
    "StageTimes",
    "StreamOptions",
    "Tls",
    "ValueEmbedder",
    "Verdict",
    "doctor",
    "embed_files",
    "open_url",
]

# Imported at first use: the command lists local backbones without grpc, and only RemoteBackbone needs torch.
_MODULES: Final = {
    "AsyncClient": "._clients.async_client",
    "BackboneInfo": "._connect.backbone_info",
    "Client": "._clients.client",
    "EmbedOptions": "._clients.options",
    "Progress": "._files.embed_files",
    "RemoteBackbone": "._torch.remote_backbone",
    "RemoteRegistry": "._torch.registry",
    "StageTimes": "._stream.timing",
    "StreamOptions": "._clients.options",
    "Tls": "._connect.address",
    "ValueEmbedder": "._files.embedders",
    "Verdict": "._doctor.network",
    "doctor": "._doctor.checks",
    "embed_files": "._files.embed_files",
    "open_url": "._torch.remote_backbone",
}

# Deprecated names, until 1.0.
_NEW_NAMES: Final = {"Embedder": "ValueEmbedder", "Stall": "StageTimes"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name], __name__), name)
        globals()[name] = value
        return value
    if name in _NEW_NAMES:
        warnings.warn(f"midrib.remote.{name} is now {_NEW_NAMES[name]}", DeprecationWarning, stacklevel=2)
        return __getattr__(_NEW_NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
