"""The contract of a module's output, checked after every forward pass.

Otherwise a module that loses, adds or reshapes rows would give callers the rows of other callers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from midrib.server._engine.compute import OutputError
from midrib.server._errors import ordinary_error

T = TypeVar("T")


def checked(embed: Callable[[Tensor], Tensor], num_features: int | None) -> Callable[[Tensor], Tensor]:
    """Return `embed` with a check of each output: [rows, ...] to [rows, num_features].

    num_features: the width that the output must have; any if None.
    Raises OutputError for an output of another type, dtype or shape, and the errors of `without_exit`.
    """

    def embed_checked(inputs: Tensor) -> Tensor:
        """Return the checked rows [rows, num_features] of inputs [rows, ...]."""
        outputs = without_exit(lambda: embed(inputs))
        _check(outputs, inputs.shape[0], num_features)
        return outputs

    return embed_checked


def without_exit(run: Callable[[], T]) -> T:
    """Run code of a module. Raises RuntimeError for an error that is not an Exception, such as that of sys.exit.

    Such an error would end the thread of the replica.
    """
    try:
        return run()
    except Exception:
        raise
    except BaseException as error:
        raise ordinary_error(error, "the module") from error


def _check(outputs: object, rows: int, num_features: int | None) -> None:
    """Raise OutputError unless the output is a floating tensor [rows, num_features]."""
    if isinstance(outputs, Tensor):
        shape = outputs.shape
        is_wide = num_features is None or shape[-1:] == (num_features,)
        if len(shape) == 2 and shape[0] == rows and is_wide and outputs.is_floating_point():
            return
        got = f"{outputs.dtype} {list(shape)}"
    else:
        got = f"a {type(outputs).__name__}"
    width = "num_features" if num_features is None else num_features
    raise OutputError(
        f"the module returned {got}, expected a floating tensor [{rows}, {width}]: the module must return one row for "
        "each row of its input"
    )
