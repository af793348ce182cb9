"""Registration of a loader under a name, with its declarations."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, TypeVar, overload

from midrib.registry._contract import call_loader, check_arguments
from midrib.registry._inputs import InputSpec
from midrib.registry._place import SourceLine, caller_frame, calling_place
from midrib.registry._remote import check_remote_arguments, is_remote_argument

Loader: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Loader)

# Keywords of a registration that describe an entry; any other keyword is free metadata, part of its identity.
DECLARED = (
    "input",
    "num_features",
    "providers",
    "license",
    "aliases",
    "deprecated_aliases",
    "requires",
    "install",
    "remote_arguments",
)
# The old names for which this process has warned, each with the key of its entry.
_warned: dict[tuple[str, str], object] = {}


@dataclass(frozen=True)
class Entry:
    """A loader under its name.

    tags: the free metadata, sorted by name; with the key, it is the entry's identity.
    place: where it was registered.
    remote_arguments: arguments of the loader that clients of a server may set; None if that was not declared.
    """

    name: str
    fn: Loader
    place: SourceLine
    namespace: str | None = None
    input: InputSpec | None = None
    num_features: int | None = None
    providers: tuple[Any, ...] = ()
    license: str | None = None
    aliases: tuple[str, ...] = ()
    deprecated_aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    install: str | None = None
    remote_arguments: tuple[str, ...] | None = None
    tags: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Return namespace/name, or the name alone if the entry has no namespace."""
        return self._within(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name and its aliases, deprecated ones included, without the namespace."""
        return (self.name, *self.aliases, *self.deprecated_aliases)

    @property
    def claims(self) -> tuple[str, ...]:
        """Return the keys that lead to this entry, each with its namespace."""
        return tuple(self._within(name) for name in self.names)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return everything that was declared at registration, by its keyword."""
        declared = {name: getattr(self, name) for name in ("namespace", *DECLARED)}
        return {name: value for name, value in declared.items() if value not in (None, ())} | dict(self.tags)

    def __getitem__(self, field: str) -> Any:
        """Return "fn", "name" or "metadata", as users of Lightning Flash read an entry. Raises KeyError for others."""
        if field not in ("fn", "name", "metadata"):
            raise KeyError(field)
        return getattr(self, field)

    def fits(self, criteria: Mapping[str, Any]) -> bool:
        """Return whether the entry declares all of these.

        criteria: values by keyword; None if it may not be declared. For `providers`, any provider of the entry.
        An entry that does not declare `pretrained` fits if its loader takes that argument, and one that does not
        declare `family` fits if its name contains the words of the family.
        """
        declared = self.metadata
        return all(
            declared.get(name) == value
            or (name == "providers" and value in self.providers)
            or (value is not None and name not in declared and self._implies(name, value))
            for name, value in criteria.items()
        )

    def load(self, **kwargs: Any) -> tuple[Any, int]:
        """Call the loader and check its result; see AbstractRegistry.load."""
        return call_loader(self, kwargs)

    def check_arguments(self, **kwargs: Any) -> None:
        """Raise LoaderArgumentError if the loader does not take these arguments; nothing is loaded."""
        check_arguments(self, kwargs)

    def is_remote(self, argument: str, value: object) -> bool:
        """Return whether a client of a server may set an argument of the loader to this value.

        It may set the arguments that the registration declares as `remote_arguments`; by default numbers and bools.
        It may never set an argument that can name a file.
        """
        is_declared = not isinstance(value, str) if self.remote_arguments is None else argument in self.remote_arguments
        return is_declared and is_remote_argument(self.fn, argument)

    def warn_if_deprecated(self, key: str) -> None:
        """Warn, once in this process, that the key is an old name of this entry."""
        old = {*self.deprecated_aliases, *map(self._within, self.deprecated_aliases)}
        marker = object()
        # setdefault is atomic: only one of several threads warns.
        if key in old and _warned.setdefault((key, self.key), marker) is marker:
            message = f"{key!r} is an old name and will be removed: use {self.key!r}"
            # The warning names the user's line, also if another library of ours made the call.
            _, distance = caller_frame("midrib")
            warnings.warn(message, DeprecationWarning, stacklevel=distance + 1)

    def _implies(self, name: str, value: Any) -> bool:
        if name == "pretrained":
            return bool(value) == _takes(self.fn, "pretrained")
        return name == "family" and _words(value) <= _words(self.name)

    def _within(self, name: str) -> str:
        return f"{self.namespace}/{name}" if self.namespace else name


def declare(fn: Loader, name: str | None, place: SourceLine, **declared: Any) -> Entry:
    """Check a registration and make it an entry.

    Raises TypeError for a loader that is not callable, and TypeError or ValueError for names that cannot be looked up.
    """
    if not callable(fn):
        raise TypeError(
            f"a loader must be callable, got {fn!r}: register a function that returns (module, num_features)"
        )
    names = {field.name for field in fields(Entry)} - {"tags", "place"}
    values = {key: declared.pop(key) for key in list(declared) if key in names}
    for key in ("providers", "aliases", "deprecated_aliases", "requires"):
        values[key] = _as_tuple(values.get(key))
    if values.get("remote_arguments") is not None:
        values["remote_arguments"] = _as_tuple(values["remote_arguments"])
    entry = Entry(name or _name_of(fn), fn, place, tags=tuple(sorted(declared.items())), **values)
    for part in (*entry.names, *([entry.namespace] if entry.namespace is not None else [])):
        _check_name(part)
    _check_declared(entry)
    return entry


class Registering(ABC):
    """A registry that takes registrations."""

    @abstractmethod
    def add(self, entry: Entry, *, override: bool = False) -> None:
        """Register an entry.  Raises DuplicateKeyError if its identity is taken and override is False."""

    @overload
    def __call__(self, fn: F, name: str | None = ..., *, override: bool = ..., **declared: Any) -> F: ...
    @overload
    def __call__(
        self, fn: None = ..., name: str | None = ..., *, override: bool = ..., **declared: Any
    ) -> Callable[[F], F]: ...

    def __call__(self, fn: Any = None, name: str | None = None, *, override: bool = False, **declared: Any) -> Any:
        """Register a loader: @R, @R(name=..., namespace=...), or R(fn, name=..., namespace=...). Returns fn itself.

        name: the function's own by default; a lambda needs one.  namespace: data_type/task_type.
        override: replace the entry of the same name, namespace and metadata, instead of refusing.
        declared: input (an InputSpec), num_features (the width of a row out), providers, license, aliases,
        deprecated_aliases (old names, which warn once), requires (importable libraries that the loader needs),
        install (the requirement that brings them, by default requires), remote_arguments (arguments of the loader that
        clients of a server may set; never one that can name a file). Any other keyword is free metadata, and with the
        key identifies the entry.
        Raises DuplicateKeyError (a ValueError) that names both places of registration; TypeError or ValueError for
        a wrong loader, name or declaration.
        """
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {name!r} of type {type(name).__name__}")
        if fn is None:
            return lambda decorated: self(decorated, name, override=override, **declared)
        self.add(declare(fn, name, calling_place(), **declared), override=override)
        return fn


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _takes(fn: Loader, argument: str) -> bool:
    try:
        return argument in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False


def _words(name: object) -> set[str]:
    """Return the words of a name, without digits: "tf_efficientnet_b0" gives tf, efficientnet and b."""
    return {word for word in re.split(r"[\W_]+", re.sub(r"\d+", "", str(name).casefold())) if word}


def unwrapped(fn: Loader) -> Loader:
    """Return the function inside a partial, or the function itself."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _name_of(fn: Loader) -> str:
    """Return the name of a loader. Raises ValueError if it has none."""
    name: str | None = getattr(unwrapped(fn), "__name__", None)
    if name is None or name == "<lambda>":
        raise ValueError(f"{fn!r} has no name: pass name=...")
    return name


def _check_name(name: object) -> None:
    """Raise TypeError or ValueError for a value that cannot name an entry."""
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, got {name!r} of type {type(name).__name__}")
    if not name.isprintable() or not name or "://" in name or name != name.strip("/ "):
        raise ValueError(
            f"got the name {name!r}: a name is not empty, is printable, has no slash or blank at its ends, and no "
            "'://' (a URL is opened, not registered)"
        )


def _check_declared(entry: Entry) -> None:
    """Raise ValueError or TypeError for a width or an input that cannot be declared."""
    if not isinstance(entry.input, InputSpec | None):
        raise TypeError(
            f"{entry.key!r} declares input={entry.input!r}: it must be an InputSpec, such as ImageInput(224)"
        )
    width = entry.num_features
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise ValueError(f"{entry.key!r} declares num_features={width!r}: it must be a positive int")
    check_remote_arguments(entry.key, entry.fn, entry.remote_arguments or ())
