"""The backbone that a command embeds with: one of a server, or one of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from midrib.remote._command.names import import_modules, parse_backbone, server_module
from midrib.remote._command.options import Access

if TYPE_CHECKING:
    from midrib.remote._files.embedders import Embedder


def load_embedder(backbone: str, access: Access, imports: Sequence[str] | None) -> Embedder:
    """Connect to grpc://host:port/namespace/name, or load 'namespace/name?argument=value' into this process.

    imports: modules that register backbones of this process.
    Raises ImportError if a backbone of this process is named and midrib-server is not installed.
    """
    if "://" in backbone:
        from midrib.remote._files.embedders import RemoteEmbedder

        return RemoteEmbedder(backbone, **access.arguments())
    import_modules(imports)
    parsed = parse_backbone(backbone)
    module = server_module("_command.embed", f"backbone {backbone} in this process")
    embedder: Embedder = module.LocalEmbedder(parsed["name"], parsed["arguments"])
    return embedder
