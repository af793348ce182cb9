"""Served backbones: `Client` (numpy) and `RemoteBackbone` (torch, imported at first use)."""

import warnings
from typing import TYPE_CHECKING, Any

from midrib.remote._clients.async_client import AsyncClient
from midrib.remote._clients.client import Client
from midrib.remote._connect.address import Tls
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._doctor.checks import doctor
from midrib.remote._doctor.network import Verdict
from midrib.remote._files.embed_files import Progress, embed_files
from midrib.remote._files.embedders import Embedder
from midrib.remote._stream.timing import StageTimes
from midrib.remote._torch.registry import RemoteRegistry

if TYPE_CHECKING:
    from midrib.remote._torch.remote_backbone import RemoteBackbone, open_url

__all__ = [
    "AsyncClient",
    "BackboneInfo",
    "Client",
    "Embedder",
    "Progress",
    "RemoteBackbone",
    "RemoteRegistry",
    "StageTimes",
    "Tls",
    "Verdict",
    "doctor",
    "embed_files",
    "open_url",
]


def __getattr__(name: str) -> Any:
    if name in {"RemoteBackbone", "open_url"}:  # they need torch, which the numpy clients do not
        from midrib.remote._torch import remote_backbone

        return getattr(remote_backbone, name)
    if name == "Stall":
        warnings.warn("midrib.remote.Stall is now StageTimes", DeprecationWarning, stacklevel=2)
        return StageTimes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
