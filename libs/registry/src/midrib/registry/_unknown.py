"""The errors for unknown names (keys, metadata and keywords), with advice that helps to find the right one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from midrib.registry._entry import Entry
from midrib.registry._errors import UnknownKeyError
from midrib.registry._plugins import PluginFailure

_MOST_NEAR: Final = 3
_MOST_LISTED: Final = 20
# Too many names contain a shorter word to suggest one of them.
_SHORTEST_WORD: Final = 3


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
    names = _without_namespaces(sorted(set(keys)))
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


def suggestion(name: str, expected: Sequence[str]) -> str:
    """Return "did you mean ...?" with the nearest of the expected names, or all of them if none is near.

    A name is near too if it is a word of the unknown one: "tls" of "tls_roots".
    """
    near = nearest(name, expected) or [known for known in expected if known in name.split("_")]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected one of {', '.join(expected)}"


def nearest(key: str, keys: Iterable[str]) -> list[str]:
    """Return at most three names: those that contain the key, or else those spelt like it. Case is ignored."""
    import difflib

    spellings = {name.casefold(): name for name in reversed(list(keys))}
    word = _squeezed(key)
    if len(word) >= _SHORTEST_WORD and (names := [name for name in spellings.values() if word in _squeezed(name)]):
        return _without_namespaces(sorted(names, key=len))[:_MOST_NEAR]
    return [spellings[near] for near in difflib.get_close_matches(key.casefold(), list(spellings), n=_MOST_NEAR)]


def _without_namespaces(names: list[str]) -> list[str]:
    """Return the names without those that repeat another one after a namespace."""
    return [name for name in names if not any(name.endswith(f"/{other}") for other in names)]


def _squeezed(name: str) -> str:
    """Return a name in lower case without punctuation, so that "all_MiniLM" is found in "all-minilm-l6-v2"."""
    return re.sub(r"[\W_]+", "", name.casefold())
