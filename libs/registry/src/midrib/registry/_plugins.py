"""Entries from other packages, through an entry-point group."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from importlib import invalidate_caches
from types import ModuleType
from typing import TYPE_CHECKING, Any

from midrib.registry._place import loading

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from midrib.registry._description import PluginFailure
    from midrib.registry._registry import Registry


class Plugins:
    """What has been found in one entry-point group, on behalf of one registry."""

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.failures: tuple[PluginFailure, ...] = ()
        self._loaded: set[tuple[str, str, str | None]] = set()
        self._stale = group is not None
        self._busy = False
        # Not the registry's own: while we wait for another thread's import, that thread may register.
        self._lock = threading.RLock()

    def discover(self, registry: Registry) -> None:
        """Load what is not loaded yet; only the first call does anything, until refresh()."""
        if not self._stale:
            return
        with self._lock:
            if self._busy or not self._stale:  # busy: a plugin that looks something up while it loads
                return
            self._busy = True
            try:
                found = [self._load(point, registry) for point in _entry_points(self.group or "")]
                self.failures = tuple(filter(None, found))
                self._stale = False
            finally:
                self._busy = False

    def refresh(self, registry: Registry) -> None:
        """Look again: for late installs, and for what failed."""
        with self._lock:
            invalidate_caches()
            self._stale = self.group is not None
            self.discover(registry)

    def _load(self, point: EntryPoint, registry: Registry) -> PluginFailure | None:
        distribution = (point.dist.name, point.dist.version) if point.dist else None
        identity = (point.name, point.value, distribution and distribution[0])
        if identity in self._loaded:
            return None
        try:
            with loading(point.module, distribution), registry.all_or_none():
                _add(point, registry)
        # One plugin's fault, of whatever kind, hides nobody else's entries.
        except (Exception, SystemExit) as error:
            return _failure(point, distribution, error)
        self._loaded.add(identity)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {"group": self.group, "failures": self.failures, "_stale": self._stale, "_loaded": {*self._loaded}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Plugins.__init__(self, state["group"])
        vars(self).update(state)


def _entry_points(group: str) -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # 10 ms: not before the first look-up

    return entry_points(group=group)


def _add(point: EntryPoint, registry: Registry) -> None:
    from midrib.registry._lookup import AbstractRegistry
    from midrib.registry._selection import Selection

    value = point.load()
    if isinstance(value, AbstractRegistry):
        for entry in value.entries(Selection(catalogues=False)):
            registry.add(entry)
    elif callable(value):
        value(registry)
    elif not isinstance(value, ModuleType):  # a module registers by being imported
        kind = type(value).__name__
        raise TypeError(f"got a {kind}, expected a callable that takes the registry, a Registry, or a module")


def _failure(point: EntryPoint, distribution: tuple[str, str] | None, error: BaseException) -> PluginFailure:
    from midrib.registry._description import PluginFailure

    package, version = distribution or (None, None)
    return PluginFailure(point.name, point.value, package, version, f"{type(error).__name__}: {error}")
