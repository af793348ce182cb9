"""Entries from other packages, through an entry-point group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import invalidate_caches
from typing import TYPE_CHECKING, Any, TypeAlias

from midrib.registry._place import loading

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# Load a plugin by calling the argument, and register its entries, or none of them if it fails.
Adopt: TypeAlias = Callable[[Callable[[], object]], None]


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be loaded; none of its entries are registered.

    name, value: its entry point.  package, version: the distribution that declares it.  error: its exception.
    """

    name: str
    value: str
    package: str | None
    version: str | None
    error: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.value}, of {self.package} {self.version}) failed to load: {self.error}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in JSON's types."""
        return asdict(self)


class Plugins:
    """The plugins of one entry-point group, loaded for one registry."""

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.failures: tuple[PluginFailure, ...] = ()
        self._loaded: set[tuple[str, str, str | None]] = set()
        self._stale = group is not None
        self._busy = False
        # Not the lock of the registry: while this thread waits for an import of another thread, that one may register.
        self._lock = threading.RLock()

    def discover(self, adopt: Adopt) -> None:
        """Load the plugins that are not loaded yet; after the first call this does nothing until refresh()."""
        if not self._stale:
            return
        with self._lock:
            if self._busy or not self._stale:  # busy: a plugin that looks something up while it loads
                return
            self._busy = True
            try:
                results = [self._load(point, adopt) for point in _entry_points(self.group or "")]
                self.failures = tuple(filter(None, results))
                self._stale = False
            finally:
                self._busy = False

    def refresh(self, adopt: Adopt) -> None:
        """Look again for plugins that were installed late or that failed."""
        with self._lock:
            invalidate_caches()
            self._stale = self.group is not None
            self.discover(adopt)

    def _load(self, point: EntryPoint, adopt: Adopt) -> PluginFailure | None:
        distribution = (point.dist.name, point.dist.version) if point.dist else None
        identity = (point.name, point.value, distribution and distribution[0])
        if identity in self._loaded:
            return None
        try:
            with loading(point.module, distribution):
                adopt(point.load)
        # A plugin that fails must not hide the entries of the others, whichever error it raises.
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


def _failure(point: EntryPoint, distribution: tuple[str, str] | None, error: BaseException) -> PluginFailure:
    package, version = distribution or (None, None)
    return PluginFailure(point.name, point.value, package, version, f"{type(error).__name__}: {error}")
