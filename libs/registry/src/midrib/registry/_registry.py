"""A registry that takes registrations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from types import ModuleType
from typing import Any

from midrib.registry._entry import Entry, Registering
from midrib.registry._errors import DuplicateKeyError
from midrib.registry._lookup import AbstractRegistry, Entries, closest
from midrib.registry._plugins import PluginFailure, Plugins
from midrib.registry._selection import Selection
from midrib.registry._unknown import unknown_key


class Registry(Registering, AbstractRegistry):
    """Map names to loaders with their declarations. It is thread-safe, and can be pickled if its loaders can.

    name: shown in error messages.
    plugins: the entry-point group through which other packages add to it, searched at the first look-up.
    """

    def __init__(self, name: str, *, plugins: str | None = None) -> None:
        self.name = name
        self._plugins = Plugins(plugins)
        self._index: dict[str, Entries] = {}  # keyed by every spelling that leads to an entry
        self._entries: Entries = ()
        self._journals: dict[int, list[tuple[Entry, Entry | None]]] = {}  # keyed by thread: (added, replaced)
        self._lock = threading.RLock()

    def add(self, entry: Entry, *, override: bool = False) -> None:
        """Register an entry, such as another registry's.  Raises DuplicateKeyError if its identity is taken."""
        with self._lock:
            replaced = None
            for other in self._clashing(entry):
                if not override or other.key != entry.key:
                    raise _duplicate(self, entry, other)
                replaced = other
            if replaced:
                self._discard(replaced)
            self._insert(entry)
            self._journals.get(threading.get_ident(), []).append((entry, replaced))

    def remove(self, key: str, **metadata: Any) -> None:
        """Remove every entry that the key and the metadata lead to.  Raises UnknownKeyError if there is none."""
        self._plugins.discover(self._adopt)
        with self._lock:
            matches = self._lookup(key, metadata)
            for entry in matches:
                self._discard(entry)
        if not matches:
            raise unknown_key(self, key, metadata)

    @contextmanager
    def temporary(self) -> Iterator[Registry]:
        """Undo every registration and removal of the block when it ends; for tests."""
        self._plugins.discover(self._adopt)
        with self._lock:
            entries, index = self._entries, dict(self._index)
        try:
            yield self
        finally:
            with self._lock:
                self._entries, self._index = entries, index

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        """Yield the entries of this key that declare the metadata, as one group, if there are any."""
        self._plugins.discover(self._adopt)
        with self._lock:
            matches = self._lookup(key, metadata)
        return iter((matches,) if matches else ())

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the selected entries, those of plugins included."""
        self._plugins.discover(self._adopt)
        with self._lock:
            return filter(selection.takes, self._entries)

    @property
    def plugin_failures(self) -> tuple[PluginFailure, ...]:
        """The plugins that could not be loaded, each with its reason; refresh() tries them again."""
        self._plugins.discover(self._adopt)
        return self._plugins.failures

    def refresh(self) -> None:
        """Look again for plugins: packages installed since the first look-up, and plugins that failed."""
        self._plugins.refresh(self._adopt)

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Undo the registrations that this thread makes in the block if the block raises."""
        journal = self._journals[threading.get_ident()] = []
        try:
            yield
        except BaseException:
            with self._lock:
                for added, replaced in reversed(journal):
                    self._discard(added)
                    if replaced:
                        self._insert(replaced)
            raise
        finally:
            del self._journals[threading.get_ident()]

    def _adopt(self, load: Callable[[], object]) -> None:
        """Load a plugin and register its entries, or none of them if it fails.

        Raises TypeError for a value that is not a plugin.
        """
        with self._all_or_none():
            plugin = load()
            if isinstance(plugin, AbstractRegistry):
                for entry in plugin.entries(Selection(catalogues=False)):
                    self.add(entry)
            elif callable(plugin):
                plugin(self)
            elif not isinstance(plugin, ModuleType):  # a module registers while it is imported
                kind = type(plugin).__name__
                raise TypeError(f"got a {kind}, expected a callable that takes the registry, a Registry, or a module")

    def _clashing(self, entry: Entry) -> Iterator[Entry]:
        for claim in entry.claims:
            for other in self._index.get(claim, ()):
                if claim in other.claims and other.tags == entry.tags:
                    yield other

    def _lookup(self, key: str, metadata: dict[str, Any]) -> Entries:
        return closest(key, (entry for entry in self._index.get(key, ()) if entry.fits(metadata)))

    def _insert(self, entry: Entry) -> None:
        self._entries += (entry,)
        for spelling in {*entry.names, *entry.claims}:
            self._index[spelling] = (*self._index.get(spelling, ()), entry)

    def _discard(self, entry: Entry) -> None:
        self._entries = tuple(other for other in self._entries if other is not entry)
        for spelling in {*entry.names, *entry.claims}:
            self._index[spelling] = tuple(other for other in self._index.get(spelling, ()) if other is not entry)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "plugins": copy(self._plugins), "entries": self._entries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Registry.__init__(self, state["name"])
        self._plugins = state["plugins"]
        for entry in state["entries"]:
            self._insert(entry)


def _duplicate(registry: Registry, entry: Entry, other: Entry) -> DuplicateKeyError:
    shared = next(claim for claim in entry.claims if claim in other.claims)
    metadata = f" with {dict(entry.tags)}" if entry.tags else ""
    return DuplicateKeyError(
        f"{shared!r}{metadata} is already in {registry}: registered at {other.place}, and again at {entry.place}; "
        f"choose another name, or replace {other.key!r} by override=True under its own name"
    )
