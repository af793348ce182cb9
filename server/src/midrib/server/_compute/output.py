"""The contract of a module's output, checked after every forward pass.

Otherwise a module that loses, adds or reshapes rows would give callers the rows of other callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from midrib.server._engine.compute import OutputError
from midrib.server._errors import ordinary_error


def checked(embed: Callable[[Tensor], Tensor], num_features: int | None) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the same, [rows, ...] to [rows, num_features], and checks each output.

    num_features: the width that the output must have; any if None.
    Raises OutputError for an output of another type, dtype or shape, and the errors of `no_exit`.
    """

    def embed_checked(inputs: Tensor) -> Tensor:
        """Return the checked rows [rows, num_features] of inputs [rows, ...]."""
        with no_exit():
            outputs = embed(inputs)
        _check(outputs, len(inputs), num_features)
        return outputs

    return embed_checked


@contextmanager
def no_exit() -> Iterator[None]:
    """Run code of a module. Raises RuntimeError for an error that is not an Exception, such as that of sys.exit.

    Such an error would end the thread of the replica.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise ordinary_error(error, "the module") from error


def _check(outputs: object, rows: int, num_features: int | None) -> None:
    """Raise OutputError unless the output is a floating tensor [rows, num_features]."""
    width = "num_features" if num_features is None else num_features
    expected = f"expected a floating tensor [{rows}, {width}]: the module must return one row for each row of its input"
    if not isinstance(outputs, Tensor):
        raise OutputError(f"the module returned a {type(outputs).__name__}, {expected}")
    wrong_width = num_features is not None and outputs.shape[-1:] != torch.Size([num_features])
    if outputs.ndim != 2 or len(outputs) != rows or wrong_width or not outputs.is_floating_point():
        raise OutputError(f"the module returned {outputs.dtype} {list(outputs.shape)}, {expected}")
