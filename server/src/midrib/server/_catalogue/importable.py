"""Loaders that a new process finds by their names."""

from __future__ import annotations

from functools import partial
from typing import Any


class NotImportableError(LookupError):
    """A fresh process does not find the registered loader."""


def loader_path(fn: Any) -> list[str]:
    """Return the module and the qualified name of a loader, which tell whether two processes mean the same one."""
    while isinstance(fn, partial):
        fn = fn.func
    return [getattr(fn, "__module__", None) or "", getattr(fn, "__qualname__", "")]
