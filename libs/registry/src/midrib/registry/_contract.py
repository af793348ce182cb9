"""The contract of a loader: it returns (module, num_features). Duck-typed, so that no tensor library is needed."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from midrib.registry._errors import ContractError, LoaderArgumentError, MissingLibraryError


class Loadable(Protocol):
    """A loader and the declarations that its call is checked against."""

    @property
    def key(self) -> str: ...
    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def num_features(self) -> int | None: ...
    @property
    def requires(self) -> tuple[str, ...]: ...
    @property
    def install(self) -> str | None: ...


def call_loader(entry: Loadable, kwargs: dict[str, Any]) -> tuple[Any, int]:
    """Call the entry's loader with kwargs and return its (module, num_features), checked.

    Raises MissingLibraryError with the install line if a library is missing, LoaderArgumentError (a TypeError) if the
    loader does not take these arguments, ContractError if it returns anything else.
    """
    if missing := missing_libraries(entry.requires):
        raise _missing(entry, missing)
    _check_arguments(entry, kwargs)
    return _check_returned(entry, entry.fn(**kwargs))


def missing_libraries(requires: Iterable[str]) -> tuple[str, ...]:
    """Return those of the importable names that are not installed, without importing them."""
    return tuple(name for name in requires if not _is_installed(name))


def install_line(requires: Iterable[str], install: str | None) -> str:
    """Return the command that installs the libraries of an entry."""
    return f"pip install {install or ' '.join(requires)}"


def _is_installed(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a missing parent package; a module without a spec
        return False


def _missing(entry: Loadable, missing: tuple[str, ...]) -> MissingLibraryError:
    line = install_line(entry.requires, entry.install)
    return MissingLibraryError(
        f"backbone {entry.key!r} needs {', '.join(missing)}, not installed here: {line}", name=missing[0]
    )


def _check_arguments(entry: Loadable, kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(entry.fn)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        hints = "".join(_hint(name, signature) for name in kwargs)
        raise LoaderArgumentError(f"backbone {entry.key!r}: {error}; its loader takes {signature}{hints}") from None


def _hint(name: str, signature: inspect.Signature) -> str:
    """Return "; did you mean ...?" for a misspelt argument, otherwise ""."""
    import difflib

    near = () if name in signature.parameters else difflib.get_close_matches(name, signature.parameters, n=1)
    return "".join(f"; {name!r}: did you mean {other!r}?" for other in near)


def _check_returned(entry: Loadable, returned: object) -> tuple[Any, int]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ContractError(f"the loader of {entry.key!r} returned {_shown(returned)}, expected (module, num_features)")
    module, width = returned
    if not callable(module):
        raise ContractError(f"the loader of {entry.key!r} returned {_shown(module)} as its module, expected a callable")
    try:
        num_features = operator.index(width)
    except TypeError:
        num_features = 0
    if isinstance(width, bool) or num_features < 1:
        raise ContractError(f"the loader of {entry.key!r} returned num_features={width!r}, expected a positive int")
    if entry.num_features not in (None, num_features):
        raise ContractError(
            f"the loader of {entry.key!r} returned num_features={num_features}, but its registration declares "
            f"{entry.num_features}: correct one of them"
        )
    return module, num_features


def _shown(value: object) -> str:
    kind = type(value).__name__
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"{value!r:.80} of type {kind}"
