"""Check installed wheels in an environment that has nothing else: `smoke.py client`, then `smoke.py server`."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import entry_points
from importlib.resources import files


def client() -> None:
    """Check that `midrib-remote` alone has its clients and resolvers, and does not install torch."""
    from midrib.registry import Registry
    from midrib.remote import Client

    expect("torch was not installed", importlib.util.find_spec("torch") is None)
    expect("Client is there", callable(Client))
    expect("a registry works", len(Registry("smoke")) == 0)
    expect("grpc:// opens", {point.name for point in entry_points(group="midrib.resolvers")} == {"grpc", "grpcs"})


def server() -> None:
    """Check that `midrib-server[demo]` loads a backbone with packaged weights and builds a task on it."""
    from midrib.backbones import load_backbone
    from midrib.task import ClassificationTask

    name = "image/classification/efficientnet-lite0"
    expect("the width of EfficientNet-Lite0", load_backbone(name).num_features == 1280)
    expect("a task on it", ClassificationTask(backbone=name, num_classes=3) is not None)
    static = files("midrib.server._console") / "static"
    console = ("index.html", "app.js", "vendor/uplot/uPlot.esm.js", "vendor/uplot/LICENSE", "vendor/deck/LICENSE")
    expect("the console's files are there", all((static / name).is_file() for name in console))


def expect(claim: str, holds: bool) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {claim}")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    {"client": client, "server": server}[sys.argv[1]]()
