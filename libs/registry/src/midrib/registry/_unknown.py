"""The errors for unknown names (keys, metadata and keywords), with advice that helps to find the right one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from midrib.registry._entry import Entry
from midrib.registry._errors import UnknownKeyError, nearest, suggestion, without_namespaces
from midrib.registry._plugins import PluginFailure

_MOST_LISTED: Final = 20


class Searchable(Protocol):
    """The methods of a registry from which the advice is made."""

    def layers(self, key: str, **metadata: Any) -> Iterator[tuple[Entry, ...]]: ...
    def nearby(self, key: str) -> list[str]: ...
    def install_hint(self, key: str) -> str | None: ...
    def prefixes(self) -> list[str]: ...
    @property
    def plugin_failures(self) -> tuple[PluginFailure, ...]: ...


def unknown_key(registry: Searchable, key: str, metadata: dict[str, Any]) -> UnknownKeyError:
    """Return the error, with advice: the metadata that exists, the nearest names, the install line."""
    entries = [entry for layer in registry.layers(key) for entry in layer]
    criteria = "".join(f" with {name}={value!r}" for name, value in metadata.items())
    advice = [_other_metadata(entries)] if entries else _advice(registry, key)
    failed = [f"the plugin {failure}" for failure in registry.plugin_failures]
    return UnknownKeyError("; ".join([f"{key!r} is not in {registry}{criteria}", *advice, *failed]))


def _other_metadata(entries: list[Entry]) -> str:
    return "it is there with " + " and with ".join(str(entry.metadata) for entry in entries)


def _advice(registry: Searchable, key: str) -> Iterator[str]:
    line = registry.install_hint(key)
    if line:
        yield f"a package that is not installed may provide it: {line}"
    name, _, arguments = key.partition("?")
    if arguments:
        yield f"pass the arguments as keywords, as in load({name!r}, {arguments.replace('&', ', ')})"
        key = name
    if near := nearest(key, registry.nearby(key)):
        yield f"did you mean {' or '.join(map(repr, near))}?"
    elif not line:
        yield _names(registry.nearby(key))
    if (prefixes := registry.prefixes()) and (subject := _needs_prefix(key, registry)):
        yield f"{subject} needs its prefix: {', '.join(prefixes)}"


def _names(keys: Iterable[str]) -> str:
    """Return the names of a small registry, or else how to list them."""
    names = without_namespaces(sorted(set(keys)))
    return f"it has {', '.join(names)}" if 0 < len(names) <= _MOST_LISTED else "its available_keys() lists every name"


def _needs_prefix(key: str, registry: Searchable) -> str:
    """Return a description of the key if it may belong to a catalogue and lacks the prefix; otherwise ""."""
    from pathlib import Path

    if Path(key).is_dir():
        return f"{key!r} is a folder: a model in a folder"
    top, slash, _ = key.partition("/")
    if not slash:
        return "a model of a whole catalogue"
    tops = {near.partition("/")[0] for near in [*registry.nearby(key), *registry.prefixes()]}
    return "" if top in tops or key.count("/") > 1 else "a model of a hub"


def unknown_metadata(registry: object, key: str, declared: Iterable[str]) -> TypeError:
    """Return the error for a metadata key that no entry of the registry declares."""
    return TypeError(f"no entry of {registry} declares {key!r}; {suggestion(key, sorted(declared))}")


def check_keywords(cls: type, keywords: Iterable[str]) -> None:
    """Raise TypeError, with the nearest name, for a keyword that no constructor of a class takes.

    A subclass in another package may take keywords of any name, so it is not checked.
    """
    accepted: list[str] = []
    for base in cls.__mro__:
        if (constructor := base.__dict__.get("__init__")) is None:
            continue
        if base.__module__.partition(".")[0] != "midrib":
            return
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        accepted += [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    for name in keywords:
        if name not in accepted:
            raise TypeError(f"{cls.__name__} got an unexpected argument {name!r}: {suggestion(name, accepted)}")
