"""The backbone that a command embeds with: one of a server, or one of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from midrib.remote._command.names import import_modules, parse_backbone, server_module
from midrib.remote._command.options import Access

if TYPE_CHECKING:
    from midrib.remote._files.embedders import ValueEmbedder


@contextlib.contextmanager
def cluster_embedder(
    address: str, backbone: str, access: Access, imports: Sequence[str] | None
) -> Iterator[ValueEmbedder]:
    """Yield a backbone that actors of a Ray cluster load, or call on its server; then leave the cluster.

    address: the cluster, such as "auto".
    Raises ImportError if Ray or midrib-ray is not installed.
    """
    from midrib.remote._command.names import cluster_module

    options = access.arguments() if "://" in backbone else {}
    embedder = cluster_module().ClusterEmbedder(address, backbone, imports=tuple(imports or ()), **options)
    try:
        yield embedder
    finally:
        embedder.close()


def load_embedder(backbone: str, access: Access, imports: Sequence[str] | None) -> ValueEmbedder:
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
    embedder: ValueEmbedder = module.LocalEmbedder(parsed["name"], parsed["arguments"])
    return embedder
