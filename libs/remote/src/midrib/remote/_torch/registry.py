"""`RemoteRegistry`: the backbones of a server, as a registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from midrib.registry import ExternalRegistry
from midrib.remote._clients.client import Client
from midrib.remote._connect.address import TlsLike

if TYPE_CHECKING:
    from midrib.remote._torch.remote_backbone import RemoteBackbone


class RemoteRegistry(ExternalRegistry):
    """The backbones of a server, listed at each look-up and loaded as RemoteBackbones.

    address, timeout, token, tls: as for `Client`. `load(name, **kwargs)` takes RemoteBackbone's arguments.
    Add it to another registry (`BACKBONES + RemoteRegistry("gpu-box:50051")`) to find served names after local ones.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        token: str | None = None,
        tls: TlsLike = None,
    ) -> None:
        self._client = Client(address, timeout=timeout, token=token, tls=tls)
        self._address = address
        self._arguments = {"timeout": timeout, "token": token, "tls": tls}
        super().__init__(self._open, f"the server at {address}", names=self._served)

    def _served(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            info.name: {
                "namespace": info.name.rpartition("/")[0],
                "input": info.input,
                # A backbone that is loading, or failed to load, has neither.
                "num_features": info.num_features or None,
                "license": info.license or None,
                "revision": info.revision,
            }
            for info in self._client.list(wait=False)
        }

    def _open(self, name: str, **kwargs: Any) -> tuple[RemoteBackbone, int]:
        from midrib.remote._torch.remote_backbone import RemoteBackbone  # torch, which listing does not need

        backbone = RemoteBackbone((self._address, name), **{**self._arguments, **kwargs})
        return backbone, backbone.num_features
