"""Import torchvision, and the libraries that import it, next to a torch that it was not built for.

The package index carries torchvision as a CUDA build only. Next to a CPU torch its compiled operators do not load, and
importing it fails at the first of them, although image classifiers use none. Declaring the schemas of these operators
makes the import work; calling one of them still raises an error.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

_FAILURE = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> Any:
    """Import torchvision, and work around the failure above only. Raises ImportError if it is not installed.

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
    """Import timm, which imports torchvision. Raises ImportError if it is not installed."""
    import_torchvision()
    return importlib.import_module("timm")


def import_transformers() -> Any:
    """Import transformers, whose models import torchvision if it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    return importlib.import_module("transformers")


def _forget(package: str) -> None:
    """Remove the modules that a failed import left incomplete."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
