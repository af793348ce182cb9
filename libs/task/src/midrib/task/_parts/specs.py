"""The forms in which a Task takes its parts: a name, a callable, or either with arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from midrib.registry import ConcatRegistry, Registry

AnyRegistry: TypeAlias = Registry | ConcatRegistry


@dataclass(frozen=True)
class Spec:
    """A factory with the user's arguments; both dictionaries are copies."""

    factory: Callable[..., Any]
    kwargs: dict[str, Any]
    config: dict[str, Any]
    part: str

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """Call the factory.  Raises TypeError, with its signature, for arguments that do not fit."""
        signature = inspect.signature(self.factory)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            name = getattr(self.factory, "__name__", repr(self.factory))
            raise TypeError(
                f"{self.part} {name}: {error}; it takes {signature}: give its arguments as ({name.lower()!r}, {{...}})"
            ) from error
        return self.factory(*args, **kwargs)


def parse(part: str, value: Any, registry: AnyRegistry, *, takes_config: bool = False) -> Spec:
    """Read a user's "name", callable, (either, kwargs) or, if takes_config, (either, kwargs, config).

    part: its name in errors.  Names are matched without regard to case.
    Raises UnknownKeyError for an unknown name, TypeError for any other form.
    """
    parts = value if isinstance(value, tuple | list) else (value,)  # a list: YAML has no tuples
    longest = 3 if takes_config else 2
    head, *rest = parts or (None,)
    fits = isinstance(head, str) or callable(head)
    if not fits or len(parts) > longest or not all(isinstance(extra, Mapping) for extra in rest):
        raise TypeError(_accepted(part, value, takes_config))
    factory = registry.get(head.lower()) if isinstance(head, str) else head
    kwargs, config = [*map(dict, rest), {}, {}][:2]
    return Spec(factory, kwargs, config, part)


def _accepted(part: str, value: Any, takes_config: bool) -> str:
    forms = ["a name", "a class or another callable", "(name or callable, kwargs)"]
    if takes_config:
        forms.append("(name or callable, kwargs, lightning_config)")
    return f"{part} got {value!r} of type {type(value).__name__}, expected {', '.join(forms[:-1])} or {forms[-1]}"


def branch(registry: AnyRegistry, owner: str) -> ConcatRegistry:
    """Return a registry of one class before its parent's, whose entries it inherits, also those registered later."""
    kind = registry.name.partition("+")[0].partition(" of ")[0]
    return Registry(f"{kind} of {owner}") + registry
