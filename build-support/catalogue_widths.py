"""Write the widths of timm's and torchvision's models for listings, which must not build a model.

Run it in an environment with timm and torchvision, after a new release of one of them:
python build-support/catalogue_widths.py. The models are built without memory, on torch's meta device, in a few minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from midrib.backbones._loaders.catalogues import load_timm, load_torchvision, torchvision_models
from midrib.backbones._torchvision import import_timm

TABLE = Path(__file__).parents[1] / "libs/backbones/src/midrib/backbones/_loaders/widths.json"


def main() -> None:
    """Write the table."""
    timm = widths(load_timm, import_timm().list_models())
    tables = {"timm": timm, "torchvision": widths(load_torchvision, torchvision_models())}
    TABLE.write_text(json.dumps(tables, indent=0, sort_keys=True) + "\n")


def widths(load: Callable[..., tuple[Any, int]], names: Iterable[str]) -> dict[str, int]:
    """Return the width of each model that can be built without its weights."""
    table = {}
    for name in names:
        try:
            table[name] = width(load, name)
        except Exception as error:  # noqa: BLE001 - a model that needs weights or another library has no entry
            print(f"{name} is left out: {error}")
    return table


def width(load: Callable[..., tuple[Any, int]], name: str) -> int:
    """Return the width of a model."""
    try:
        with torch.device("meta"):
            return load(name, pretrained=False)[1]
    except NotImplementedError:  # torchvision's RegNets compute their sizes by tensors
        return load(name, pretrained=False)[1]


if __name__ == "__main__":
    main()
