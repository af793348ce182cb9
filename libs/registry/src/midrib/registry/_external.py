"""A whole catalogue that somebody else keeps: a library's models, or a server's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from midrib.registry._contract import install_line, missing_libraries
from midrib.registry._entry import Entry, declare
from midrib.registry._lookup import AbstractRegistry, Entries, Keys, closest
from midrib.registry._place import calling_place
from midrib.registry._selection import Selection


class ExternalRegistry(AbstractRegistry):
    """The entries of a catalogue, made when they are asked for: loading one calls getter(model, **kwargs).

    getter: takes the catalogue's own name of a model, and the caller's arguments; returns (module, num_features).
    name: what error messages call the catalogue.
    names: lists the catalogue's own names, asked anew each time; a mapping adds what each model declares by itself,
    its namespace being the beginning of its own name. Without names, nothing is known to be in the catalogue (`in`
    is False, `len` is 0), yet get() hands out a loader, and only loading can tell.
    prefix: what the catalogue's names begin with here, such as "timm/": a key without it is not looked for.
    declared: what every model declares, as in Registry; with requires=..., nothing is there until that is installed.
    """

    def __init__(
        self,
        getter: Callable[..., Any],
        name: str,
        providers: Any = None,
        *,
        names: Callable[[], Iterable[str] | Mapping[str, Mapping[str, Any]]] | None = None,
        prefix: str = "",
        **declared: Any,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self._getter = getter
        self._names = names
        self._declared = {"providers": providers} | declared
        self._place = calling_place()
        self._model = self._entry("a model", {})  # what holds of every one; and bad declarations fail here

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        """Yield the entry of this key if the catalogue lists it; a key without the prefix lists nothing."""
        known = self._known() if self.prefix in key else ()
        if found := closest(key, (entry for entry in known if entry.fits(metadata))):
            yield found

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        own = self._own_name(key)
        if self._names is None and own and self._model.fits(metadata) and not self._missing():
            yield (self._entry(own, {}),)

    def entries(self, selection: Selection) -> Iterator[Entry]:
        return filter(selection.takes, self._known() if selection.catalogues else ())

    def nearby(self, key: str) -> Keys:
        # A key without our prefix is not a mistyped name of ours, and to list the names could take seconds.
        known = self._known() if self.prefix in key else ()
        return [spelling for entry in known for spelling in (entry.key, entry.name)]

    def install_hint(self, key: str) -> str | None:
        return self._install_line() or None if self._own_name(key) else None

    def prefixes(self) -> Keys:
        line = self._install_line()
        return [f"{self.prefix}{line and f' ({line})'}"] if self.prefix else []

    def _known(self) -> Iterator[Entry]:
        if self._names is None or self._missing():
            return
        names = self._names()
        for own in dict.fromkeys(names):
            yield self._entry(own, names[own] if isinstance(names, Mapping) else {})

    def _entry(self, own: str, declared: Mapping[str, Any]) -> Entry:
        everything = {**self._declared, **declared}
        name = own.removeprefix(f"{everything.get('namespace')}/")
        return declare(functools.partial(self._getter, own), self.prefix + name, self._place, **everything)

    def _own_name(self, key: str) -> str:
        """The catalogue's own name in a key; empty for a key that does not begin as the catalogue's keys do."""
        name = key.removeprefix(f"{self._model.namespace}/")
        return name.removeprefix(self.prefix) if name.startswith(self.prefix) else ""

    def _missing(self) -> tuple[str, ...]:
        return missing_libraries(self._model.requires)

    def _install_line(self) -> str:
        return install_line(self._model.requires, self._model.install) if self._missing() else ""
