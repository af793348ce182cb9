"""Tries installed wheels, from an environment that holds nothing else: `smoke.py client`, then `smoke.py server`."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import entry_points


def client() -> None:
    """`midrib-remote` alone: its clients and its resolvers are there, and it brought no torch."""
    from midrib.registry import Registry
    from midrib.remote import Client

    expect("torch was not installed", importlib.util.find_spec("torch") is None)
    expect("Client is there", callable(Client))
    expect("a registry works", len(Registry("smoke")) == 0)
    expect("grpc:// opens", {point.name for point in entry_points(group="midrib.resolvers")} == {"grpc", "grpcs"})


def server() -> None:
    """`midrib-server[demo]`: a backbone loads with the weights of a package, and a task stands on it."""
    from midrib.backbones import load_backbone
    from midrib.task import ClassificationTask

    name = "image/classification/efficientnet-lite0"
    expect("the width of EfficientNet-Lite0", load_backbone(name).num_features == 1280)
    expect("a task on it", ClassificationTask(backbone=name, num_classes=3) is not None)


def expect(what: str, holds: bool) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    {"client": client, "server": server}[sys.argv[1]]()
