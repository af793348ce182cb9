"""Which arguments of a loader a client of a server may set: never one that can name a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_PATH_WORDS = frozenset(
    {"path", "paths", "file", "files", "filename", "filepath", "dir", "directory", "folder", "checkpoint", "ckpt"}
    | {"url", "uri", "root"}
)
_PATH_TYPES = re.compile(r"Path|Traversable|\bIO\b|BinaryIO|TextIO")


def is_remote_argument(loader: Callable[..., Any], name: str) -> bool:
    """Return whether a loader has an argument that cannot name a file, by its name and its annotation."""
    parameter = _parameters(loader).get(name)
    return parameter is not None and not _names_a_file(parameter)


def check_remote_arguments(key: str, loader: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise ValueError unless the loader has every argument and none of them can name a file."""
    parameters = _parameters(loader)
    for name in names:
        if name not in parameters:
            raise ValueError(
                f"{key!r} declares remote_arguments {name!r}, expected parameters of its loader: "
                f"{', '.join(parameters) or 'it has none'}"
            )
        if _names_a_file(parameters[name]):
            raise ValueError(
                f"{key!r} declares remote_arguments {name!r}, which can name a file of the server: leave it out, "
                "because only the server's configuration may set it"
            )


def _names_a_file(parameter: inspect.Parameter) -> bool:
    annotation = "" if parameter.annotation is parameter.empty else inspect.formatannotation(parameter.annotation)
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", parameter.name)
    return bool(_PATH_TYPES.search(annotation)) or any(word.casefold() in _PATH_WORDS for word in words)


def _parameters(loader: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(loader).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return {}
