"""A whole catalogue that another project maintains: a library's models, or a server's."""

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
    """The entries of a catalogue, made on demand: loading one calls getter(model, **kwargs).

    getter: takes the name of a model in the catalogue, and the caller's arguments; returns (module, num_features).
    name: shown in error messages.
    names: lists the names in the catalogue, at every look-up; a mapping adds the declarations of each model. Without
    names, no key is known to be in the catalogue (`in` is False, `len` is 0), but get() returns a loader for any key,
    and only loading shows whether the model exists.
    prefix: the start of the catalogue's keys here, such as "timm/"; keys without it are not looked up.
    declared: the declarations of all models, as in Registry; with requires=..., the catalogue is empty until that is
    installed.
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
        self._model = self._entry("a model", {})  # has the declarations of all models; wrong ones fail here

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        """Yield the entry of this key if the catalogue lists it; a key without the prefix lists nothing."""
        entries = self._listed() if self.prefix in key else ()
        if matches := closest(key, (entry for entry in entries if entry.fits(metadata))):
            yield matches

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        model = self._model_name(key)
        if self._names is None and model and self._model.fits(metadata) and not self._missing():
            yield (self._entry(model, {}),)

    def entries(self, selection: Selection) -> Iterator[Entry]:
        return filter(selection.takes, self._listed() if selection.catalogues else ())

    def nearby(self, key: str) -> Keys:
        # A key without the prefix is not a mistyped name of this catalogue, and listing the names could take seconds.
        entries = self._listed() if self.prefix in key else ()
        return [spelling for entry in entries for spelling in (entry.key, entry.name)]

    def install_hint(self, key: str) -> str | None:
        return self._install_line() or None if self._model_name(key) else None

    def prefixes(self) -> Keys:
        line = self._install_line()
        return [f"{self.prefix}{line and f' ({line})'}"] if self.prefix else []

    def _listed(self) -> Iterator[Entry]:
        if self._names is None or self._missing():
            return
        names = self._names()
        for model in dict.fromkeys(names):
            yield self._entry(model, names[model] if isinstance(names, Mapping) else {})

    def _entry(self, model: str, declared: Mapping[str, Any]) -> Entry:
        everything = {**self._declared, **declared}
        name = model.removeprefix(f"{everything.get('namespace')}/")
        return declare(functools.partial(self._getter, model), self.prefix + name, self._place, **everything)

    def _model_name(self, key: str) -> str:
        """Return the model's name in the catalogue; "" for a key that does not begin as the catalogue's keys do."""
        name = key.removeprefix(f"{self._model.namespace}/")
        return name.removeprefix(self.prefix) if name.startswith(self.prefix) else ""

    def _missing(self) -> tuple[str, ...]:
        return missing_libraries(self._model.requires)

    def _install_line(self) -> str:
        return install_line(self._model.requires, self._model.install) if self._missing() else ""
