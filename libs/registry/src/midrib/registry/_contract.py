"""The contract of a loader: it returns (module, num_features). Duck-typed, so that no tensor library is needed."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from midrib.registry._errors import ContractError, LoaderArgumentError, MissingLibraryError, nearest

# The plain types that an annotation may name, and the Python types that each accepts.
_PLAIN_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}
# An error of these types that one of these libraries raises is about an argument that the loader passed on unchecked.
_VALUE_ERRORS: Final = (TypeError, ValueError, RuntimeError, IndexError, OverflowError)
_COMPUTING_LIBRARIES: Final = frozenset({"torch", "numpy"})
_MAX_REASON_CHARS: Final = 200
_QUOTES: Final = "'"


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
    loader does not take these arguments or cannot use one of their values, ContractError if it returns anything else.
    """
    if missing := missing_libraries(entry.requires):
        raise _missing(entry, missing)
    check_arguments(entry, kwargs)
    try:
        returned = entry.fn(**kwargs)
    except _VALUE_ERRORS as error:
        if kwargs and type(error) in _VALUE_ERRORS and _library_of(error) in _COMPUTING_LIBRARIES:
            raise _unusable(entry, kwargs, error) from error
        raise
    return _check_returned(entry, returned, kwargs)


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


def check_arguments(entry: Loadable, kwargs: Mapping[str, Any]) -> None:
    """Raise LoaderArgumentError if the loader lacks one of the arguments, needs more, or one has another type."""
    try:
        signature = inspect.signature(entry.fn)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        hints = "".join(_hint(name, signature) for name in kwargs)
        raise LoaderArgumentError(
            f"backbone {entry.key!r}: {error}; its loader takes {in_text(signature)}{hints}"
        ) from None
    for name, value in kwargs.items():
        if (parameter := signature.parameters.get(name)) is not None and not _fits(value, parameter):
            raise LoaderArgumentError(
                f"backbone {entry.key!r} got {name}={value!r:.80} of type {type(value).__name__}, expected "
                f"{inspect.formatannotation(parameter.annotation).strip(_QUOTES)}"
            )


class _Bare(str):
    """A text that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def in_text(signature: inspect.Signature) -> str:
    """Return the parameters of a signature in parentheses, with annotations as their author wrote them."""
    parameters = [
        (
            parameter.replace(annotation=_Bare(parameter.annotation))
            if isinstance(parameter.annotation, str)
            else parameter
        )
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _fits(value: object, parameter: inspect.Parameter) -> bool:
    """Return whether a value has the annotated type; True if the annotation is not made of plain types."""
    if parameter.annotation is parameter.empty:
        return True
    names = inspect.formatannotation(parameter.annotation).strip(_QUOTES).split(" | ")
    accepted = tuple(kind for name in names for kind in _PLAIN_TYPES.get(name, ()))
    if not accepted or not set(names) <= _PLAIN_TYPES.keys():
        return True
    # A bool is an int in Python, but it is not a number of features. numpy's integers are accepted too.
    if isinstance(value, bool):
        return bool in accepted
    return isinstance(value, accepted) or (int in accepted and hasattr(value, "__index__"))


def _library_of(error: BaseException) -> str:
    """Return the top package of the function that raised an error; "" if it has no traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _unusable(entry: Loadable, kwargs: Mapping[str, Any], error: Exception) -> LoaderArgumentError:
    arguments = ", ".join(f"{name}={value!r:.80}" for name, value in kwargs.items())
    reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
    return LoaderArgumentError(
        f"backbone {entry.key!r} cannot be built with {arguments} ({type(error).__name__}: {reason}): check these "
        f"values; its loader takes {in_text(inspect.signature(entry.fn))}"
    )


def _hint(name: str, signature: inspect.Signature) -> str:
    """Return "; did you mean ...?" for a misspelt argument, otherwise ""."""
    near = [] if name in signature.parameters else nearest(name, signature.parameters)[:1]
    return "".join(f"; {name!r}: did you mean {other!r}?" for other in near)


def _check_returned(entry: Loadable, returned: object, kwargs: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the module and its width. Raises ContractError for other values, or if the declared width differs."""
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
    if entry.num_features not in (None, num_features) and _are_parameters(entry.fn, kwargs):
        raise ContractError(
            f"the loader of {entry.key!r} returned num_features={num_features}, but its registration declares "
            f"{entry.num_features}: correct one of them"
        )
    return module, num_features


def _are_parameters(loader: Callable[..., Any], names: Iterable[str]) -> bool:
    """Return whether all these arguments are parameters of a loader.

    An argument that it only passes on through **options, such as timm's num_classes, may change the declared width.
    """
    try:
        parameters = inspect.signature(loader).parameters
    except (TypeError, ValueError):  # some builtins have none
        return True
    return set(names) <= {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}


def _shown(value: object) -> str:
    kind = type(value).__name__
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"{value!r:.80} of type {kind}"
