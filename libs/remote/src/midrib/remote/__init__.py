"""Served backbones: `Client` (numpy) and `RemoteBackbone` (torch, imported at first use)."""

from typing import TYPE_CHECKING, Any

from midrib.remote._address import Tls
from midrib.remote._async_client import AsyncClient
from midrib.remote._client import Client
from midrib.remote._doctor import doctor
from midrib.remote._doctor_network import Verdict
from midrib.remote._embed_files import Embedder, Progress, embed_files
from midrib.remote._info import BackboneInfo
from midrib.remote._registry import RemoteRegistry
from midrib.remote._timing import Stall

if TYPE_CHECKING:
    from midrib.remote._backbone import RemoteBackbone, open_url

__all__ = [
    "AsyncClient",
    "BackboneInfo",
    "Client",
    "Embedder",
    "Progress",
    "RemoteBackbone",
    "RemoteRegistry",
    "Stall",
    "Tls",
    "Verdict",
    "doctor",
    "embed_files",
    "open_url",
]


def __getattr__(name: str) -> Any:
    if name in {"RemoteBackbone", "open_url"}:  # they need torch, which the numpy clients do not
        from midrib.remote import _backbone

        return getattr(_backbone, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
