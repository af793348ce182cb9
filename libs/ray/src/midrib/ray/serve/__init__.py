"""Serve backbones online on Ray Serve: the same bytes as `midrib serve`, on as many replicas as the load needs."""

from midrib.ray.serve._options import ServeOptions
from midrib.ray.serve._options_file import read_backbone_options
from midrib.ray.serve._up import down, up

__all__ = ["ServeOptions", "down", "read_backbone_options", "up"]
