"""What to tell someone whose key leads nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from midrib.registry._errors import UnknownKeyError

if TYPE_CHECKING:
    from midrib.registry._lookup import AbstractRegistry


def unknown_key(registry: AbstractRegistry, key: str, metadata: dict[str, Any]) -> UnknownKeyError:
    """The error, with what would help: the install line, the metadata that does exist, or the nearest names."""
    parts = [_help(registry, key, metadata), *_failed_plugins(registry)]
    return UnknownKeyError("; ".join(parts))


def _help(registry: AbstractRegistry, key: str, metadata: dict[str, Any]) -> str:
    if line := registry.install_hint(key):
        return f"{key!r} is not in {registry!r} as installed here, but a known package provides it: {line}"
    if known := [entry for layer in registry.layers(key) for entry in layer]:
        wanted = ", ".join(f"{name}={value!r}" for name, value in metadata.items())
        return f"{key!r} is in {registry!r}, but not with {wanted}: it has {known[0].metadata}"
    near = _nearest(key, registry.nearby(key))
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "available_keys() gives every name"
    return f"{key!r} is not in {registry!r}: {advice}"


def _nearest(key: str, keys: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(key, list(dict.fromkeys(keys)), n=3)


def _failed_plugins(registry: AbstractRegistry) -> list[str]:
    return [f"the plugin {failure}, so what it adds is missing" for failure in registry.plugin_failures]
