"""A backbone whose module returns unusual outputs, raises unusual errors, or changes the state of torch or Python."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

REGISTRY = Registry("unusual")
# A row of this value has the module behave as the name with its index says.
FIRST_TRIGGER = 1000


class Exiting:
    """Raises SystemExit when it is freed."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        raise SystemExit(3)


def recurse() -> None:
    """Call itself until Python's limit."""
    recurse()


def circular_error() -> Exception:
    """Return an error whose causes are a circle."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def leave_garbage() -> None:
    """Free an object that raises SystemExit."""
    Exiting()
    gc.collect()


def _raise(error: BaseException) -> None:
    raise error


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "its input": lambda rows: rows.mul_(2),
    "an expanded column": lambda rows: (rows[:, :1] * 2).expand(len(rows), 2),
    "transposed memory": lambda rows: (rows * 2).t().contiguous().t(),
    "a tensor that requires a gradient": lambda rows: nn.Parameter(rows * 2),
    "float64": lambda rows: (rows * 2).double(),
    "bfloat16": lambda rows: (rows * 2).bfloat16(),
    "a sparse tensor": lambda rows: (rows * 2).to_sparse(),
    "a meta tensor": lambda rows: torch.empty(len(rows), 2, device="meta"),
    "a nested tensor": lambda rows: torch.nested.nested_tensor(list(rows)),
    "a generator": lambda rows: (row for row in rows),
    "a list": lambda rows: rows.tolist(),
    "an array": lambda rows: rows.numpy(),
    "nothing": lambda rows: None,
    "a dictionary": lambda rows: {"rows": rows},
    "complex numbers": lambda rows: rows.to(torch.complex64),
    "whole numbers": lambda rows: rows.int(),
    "a number": lambda rows: torch.tensor(1.0),
}
ERRORS: dict[str, Callable[[], object]] = {
    "an error of 100 MB": lambda: _raise(RuntimeError("x" * 10**8)),
    "a circle of errors": lambda: _raise(circular_error()),
    "endless recursion": recurse,
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "a group of errors": lambda: _raise(BaseExceptionGroup("group", [KeyboardInterrupt(), ValueError("x")])),
    "EOFError": lambda: _raise(EOFError()),
    "BrokenPipeError": lambda: _raise(BrokenPipeError()),
}
CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "training mode": lambda module: module.train(),
    "training mode of a part": lambda module: next(module.children()).train(),
    "default device": lambda module: torch.set_default_device("meta"),
    "default dtype": lambda module: torch.set_default_dtype(torch.float64),
    "gradients": lambda module: torch.set_grad_enabled(True),
    "inference mode": lambda module: torch.inference_mode(False).__enter__(),
    "threads": lambda module: torch.set_num_threads(32),
    "numpy's errors": lambda module: np.seterr(all="raise"),
    "warnings": lambda module: warnings.simplefilter("error"),
    "garbage": lambda module: leave_garbage(),
    "trace": lambda module: sys.settrace(lambda *_: None),
}
NAMES = [*OUTPUTS, *ERRORS, *CHANGES]


class Unusual(nn.Module):
    """Doubles its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, rows: Tensor) -> Any:
        value = int(rows.max())
        if value < FIRST_TRIGGER:
            return self.dropout(rows) * 2
        name = NAMES[value - FIRST_TRIGGER]
        if name in OUTPUTS:
            return OUTPUTS[name](rows)
        ERRORS[name]() if name in ERRORS else CHANGES[name](self)
        return rows * 2


@REGISTRY(name="unusual", namespace="test/embedding", input=TensorInput((2,)))
def load_unusual() -> tuple[nn.Module, int]:
    return Unusual(), 2
