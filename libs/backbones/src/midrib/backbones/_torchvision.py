"""torchvision on a machine whose torch is not the one that it was built for.

The package index carries torchvision as a CUDA build only. Beside a CPU torch its compiled operators do not load, and
the import fails where its Python code attaches to the first of them, though no image classifier uses any. Declaring
the operators' schemas lets the genuine Python code in; to call one of them still fails, and says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

_FAILURE = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> Any:
    """Import torchvision, past the failure above and no other.

    timm, open_clip and transformers' image code import it too.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != _FAILURE:
            raise
    import torch

    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", _SCHEMA)
    _forget("torchvision")
    return importlib.import_module("torchvision")


def import_timm() -> Any:
    """Import timm, which imports torchvision at once."""
    import_torchvision()
    return importlib.import_module("timm")


def import_transformers() -> Any:
    """Import transformers, whose models import torchvision where it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    return importlib.import_module("transformers")


def _forget(package: str) -> None:
    """Drop what a failed import left half made."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
