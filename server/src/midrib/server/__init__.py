"""The server: registered backbones on GPUs or CPUs, embeddings over gRPC."""

from midrib.server._server import Server
from midrib.server._settings import BackboneSettings, Settings, load_settings

__all__ = ["BackboneSettings", "Server", "Settings", "load_settings"]
