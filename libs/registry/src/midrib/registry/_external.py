"""A whole catalogue that somebody else keeps: a library's models, or a server's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from midrib.registry._contract import install_line, missing_libraries
from midrib.registry._entry import Entry, declare
from midrib.registry._lookup import AbstractRegistry, Entries, Keys
from midrib.registry._place import calling_place
from midrib.registry._selection import Selection


class ExternalRegistry(AbstractRegistry):
    """The entries of a catalogue, made when they are asked for: loading one calls getter(name, **kwargs).

    getter: takes the catalogue's own name of a model, and the caller's arguments; returns (module, num_features).
    name: what error messages call the catalogue.
    names: lists the catalogue's own names, asked anew each time. Without it, nothing is known to be in the catalogue
    (`in` is False, `len` is 0), yet get() hands out a loader, and only loading can tell.
    prefix: what the catalogue's names begin with here, such as "timm/": a key without it is not looked for.
    declared: what every entry declares, as in Registry; with requires=..., nothing is listed until they are installed.
    """

    def __init__(
        self,
        getter: Callable[..., Any],
        name: str,
        providers: Any = None,
        *,
        names: Callable[[], Iterable[str]] | None = None,
        prefix: str = "",
        **declared: Any,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self._getter = getter
        self._names = names
        self._model = declare(getter, "model", calling_place(), providers=providers, **declared)
        self._declared = {"providers": providers} | declared

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        own = self._own_name(key)
        if own and self._model.fits(metadata) and own in self._listed():
            yield (self._entry(own),)

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        own = self._own_name(key)
        if own and self._names is None and self._model.fits(metadata) and not self._missing():
            yield (self._entry(own),)

    def entries(self, selection: Selection) -> Iterator[Entry]:
        if not selection.catalogues or not self._model.fits(selection.declared):
            return iter(())
        return filter(selection.takes, map(self._entry, self._listed()))

    def nearby(self, key: str) -> Keys:
        # A key without our prefix is not a mistyped name of ours; asking for the names could take seconds.
        return [self._entry(own).key for own in self._listed()] if self._own_name(key) else []

    def install_hint(self, key: str) -> str | None:
        if self._own_name(key) and self._missing():
            return install_line(self._model.requires, self._model.install)
        return None

    def _own_name(self, key: str) -> str | None:
        local = key.removeprefix(f"{self._model.namespace}/") if self._model.namespace else key
        return local.removeprefix(self.prefix) if local.startswith(self.prefix) else None

    def _missing(self) -> tuple[str, ...]:
        return missing_libraries(self._model.requires)

    def _listed(self) -> frozenset[str]:
        return frozenset() if self._names is None or self._missing() else frozenset(self._names())

    def _entry(self, own: str) -> Entry:
        loader = functools.partial(self._getter, own)
        return declare(loader, self.prefix + own, self._model.place, **self._declared)
