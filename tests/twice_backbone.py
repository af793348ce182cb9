"""Backbones of several servers that compute their first rows only together: a test of whether all of them take part."""

from __future__ import annotations

import threading

from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

NAME = "test/numbers/twice"
ROWS = 8 * 1024  # of two values: eight messages, which are more than one stream's window


class Twice(nn.Module):
    """Doubles its rows. The first ones wait for those of the other modules with the same barrier."""

    def __init__(self, together: threading.Barrier) -> None:
        super().__init__()
        self.together = together
        self.waits = True

    def forward(self, rows: Tensor) -> Tensor:
        """Return [rows, 2] for [rows, 2]."""
        if self.waits and bool((rows >= 1000).all()):  # not the rows by which loading checks the module
            self.together.wait(60)
            self.waits = False
        return rows * 2


def new_registry(module: Twice) -> Registry:
    """Return a registry of one backbone."""
    registry = Registry("test")
    registry(lambda: (module, 2), name="twice", namespace="test/numbers", input=TensorInput((2,)), num_features=2)
    return registry
