"""Registration of a loader, by a call or as a decorator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, overload

from midrib.registry._entry import Entry, declare
from midrib.registry._place import calling_place

F = TypeVar("F", bound=Callable[..., Any])


class Registering(ABC):
    """A registry that takes registrations."""

    @abstractmethod
    def add(self, entry: Entry, *, override: bool = False) -> None:
        """Register an entry.  Raises DuplicateKeyError if its identity is taken and override is False."""

    @overload
    def __call__(self, fn: F, name: str | None = ..., *, override: bool = ..., **declared: Any) -> F: ...
    @overload
    def __call__(
        self, fn: None = ..., name: str | None = ..., *, override: bool = ..., **declared: Any
    ) -> Callable[[F], F]: ...

    def __call__(self, fn: Any = None, name: str | None = None, *, override: bool = False, **declared: Any) -> Any:
        """Register a loader: @R, @R(name=..., namespace=...), or R(fn, name=..., namespace=...). Returns fn itself.

        name: the function's own by default; a lambda needs one.  namespace: data_type/task_type.
        override: replace the entry of the same name, namespace and metadata, instead of refusing.
        declared: input (an InputSpec), num_features (the width of a row out), providers, license, aliases,
        deprecated_aliases (old names, which warn once), requires (importable libraries that the loader needs),
        install (the requirement that brings them, by default requires); all other keywords are free metadata, which
        together with the key is the identity of an entry.
        Raises DuplicateKeyError (a ValueError) that names both places of registration; TypeError or ValueError for
        an invalid loader or name.
        """
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {name!r} of type {type(name).__name__}")
        if fn is None:
            return lambda decorated: self(decorated, name, override=override, **declared)
        self.add(declare(fn, name, calling_place(), **declared), override=override)
        return fn
