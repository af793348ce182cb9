"""Several registries, searched left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, overload

from midrib.registry._entry import Entry
from midrib.registry._lookup import AbstractRegistry, Entries, Keys
from midrib.registry._registry import F, Registry
from midrib.registry._selection import Selection

if TYPE_CHECKING:
    from midrib.registry._description import PluginFailure


class ConcatRegistry(AbstractRegistry):
    """Several registries, searched left to right: the first that knows a key answers.

    What is registered through it goes to the leftmost Registry.
    """

    def __init__(self, *registries: AbstractRegistry) -> None:
        flat = [part.registries if isinstance(part, ConcatRegistry) else (part,) for part in registries]
        self.registries: tuple[AbstractRegistry, ...] = tuple(part for group in flat for part in group)
        self.name = "+".join(part.name for part in self.registries)

    @overload
    def __call__(self, fn: F, name: str | None = ..., *, override: bool = ..., **declared: Any) -> F: ...
    @overload
    def __call__(
        self, fn: None = ..., name: str | None = ..., *, override: bool = ..., **declared: Any
    ) -> Callable[[F], F]: ...

    def __call__(self, fn: Any = None, name: str | None = None, *, override: bool = False, **declared: Any) -> Any:
        """Register in the leftmost Registry; see Registry."""
        return self._own()(fn, name, override=override, **declared)

    def remove(self, key: str, **metadata: Any) -> None:
        """Remove from the leftmost Registry, so that what it shadowed appears; see Registry.remove."""
        self._own().remove(key, **metadata)

    @contextmanager
    def temporary(self) -> Iterator[ConcatRegistry]:
        """Undo, on leaving, every registration and removal made meanwhile; for tests."""
        with ExitStack() as stack:
            for part in self.registries:
                if isinstance(part, Registry):
                    stack.enter_context(part.temporary())
            yield self

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        return (layer for part in self.registries for layer in part.layers(key, **metadata))

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        return (layer for part in self.registries for layer in part.open_layers(key, **metadata))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """What can be reached: an entry of the same identity further left hides one further right."""
        seen: dict[str, list[Entry]] = {}
        for part in self.registries:
            fresh = [e for e in part.entries(selection) if all(e.tags != s.tags for s in seen.get(e.key, ()))]
            for entry in fresh:
                seen.setdefault(entry.key, []).append(entry)
            yield from fresh

    def nearby(self, key: str) -> Keys:
        return [near for part in self.registries for near in part.nearby(key)]

    def install_hint(self, key: str) -> str | None:
        return next(filter(None, (part.install_hint(key) for part in self.registries)), None)

    def prefixes(self) -> Keys:
        return [prefix for part in self.registries for prefix in part.prefixes()]

    @property
    def plugin_failures(self) -> tuple[PluginFailure, ...]:
        return tuple(failure for part in self.registries for failure in part.plugin_failures)

    def refresh(self) -> None:
        for part in self.registries:
            part.refresh()

    def _own(self) -> Registry:
        for part in self.registries:
            if isinstance(part, Registry):
                return part
        raise TypeError(f"{self!r} holds no Registry that could be registered in: add one on the left")
