"""Entries from other packages, through an entry-point group."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import invalidate_caches
from types import ModuleType
from typing import TYPE_CHECKING, Any

from midrib.registry._place import loading

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from midrib.registry._registry import Registry


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be loaded; none of its entries are there.

    name, value: its entry point.  package, version: the distribution that declares it.  error: what it raised.
    """

    name: str
    value: str
    package: str | None
    version: str | None
    error: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.value}, of {self.package} {self.version}) failed to load: {self.error}"


class Plugins:
    """What has been found in one entry-point group, on behalf of one registry."""

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.failures: dict[tuple[str, ...], PluginFailure] = {}
        self._loaded: set[tuple[str, ...]] = set()
        self._stale = group is not None
        self._busy = False
        # Not the registry's own: while we wait for another thread's import, that thread may register.
        self._lock = threading.RLock()

    def discover(self, registry: Registry) -> None:
        """Load what is not loaded yet, once, until forget()."""
        if not self._stale:
            return
        with self._lock:
            if self._busy or not self._stale:  # busy: a plugin that looks something up while it loads
                return
            self._busy = True
            try:
                for point in _entry_points(self.group or ""):
                    self._load(point, registry)
                self._stale = False
            finally:
                self._busy = False

    def forget(self) -> None:
        """Look again at the next discover(): for late installs, and for what failed."""
        invalidate_caches()
        self._stale = self.group is not None

    def _load(self, point: EntryPoint, registry: Registry) -> None:
        package, version = (point.dist.name, point.dist.version) if point.dist else (None, None)
        identity = (point.name, point.value, package or "")
        if identity in self._loaded:
            return
        try:
            distribution = (package, version) if package and version else None
            with loading(point.module, distribution), registry.all_or_none():
                _add(point, registry)
            self._loaded.add(identity)
            self.failures.pop(identity, None)
        # One plugin's fault, of whatever kind, hides nobody else's entries.
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}"
            self.failures[identity] = PluginFailure(point.name, point.value, package, version, text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"} | {"_busy": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())


def _entry_points(group: str) -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # 10 ms: not before the first look-up

    return entry_points(group=group)


def _add(point: EntryPoint, registry: Registry) -> None:
    value = point.load()
    if hasattr(value, "copy_into"):
        value.copy_into(registry)
    elif callable(value):
        value(registry)
    elif not isinstance(value, ModuleType):  # a module registers by being imported
        kind = type(value).__name__
        raise TypeError(f"got a {kind}, expected a callable that takes the registry, a Registry, or a module")
