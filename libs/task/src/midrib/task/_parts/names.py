"""The names under which losses and metrics are logged."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TypeVar, cast

_T = TypeVar("_T")
_TASK_PREFIX = re.compile(r"^(Multiclass|Multilabel|Binary)(?=[A-Z])")


def snake_case(name: str) -> str:
    """Return a name in snake_case: "CrossEntropyLoss" becomes "cross_entropy_loss", "BCELoss" "bce_loss"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def name_of(thing: object) -> str:
    """Return the name of a function or of an object's class in logs; torchmetrics' MulticlassAccuracy is "accuracy"."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return snake_case(_TASK_PREFIX.sub("", getattr(thing, "__name__", type(thing).__name__)))


def unique_names(part: str, values: _T | Sequence[_T]) -> dict[str, _T]:
    """Name one value, or each of several, after its function or class.  Raises ValueError for two of the same name."""
    several = isinstance(values, Sequence) and not isinstance(values, str)  # a string is a value of the wrong type
    named: dict[str, _T] = {}
    for thing in cast("Sequence[_T]", values if several else [values]):
        name = name_of(thing)
        if name in named:
            raise ValueError(
                f"{part} has two that are called {name!r}: pass a mapping from names, as in "
                f"{part}={{'{name}': ..., '{name}_2': ...}}"
            )
        named[name] = thing
    return named
