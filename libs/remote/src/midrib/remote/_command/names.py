"""Names of backbones as the command line gives them."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qsl

_SERVER: Final = "pip install midrib-server"
_CONSTANTS: Final = {"True": True, "False": False, "None": None}


def parse_backbone(text: str) -> dict[str, Any]:
    """Return 'namespace/name?argument=value&...' as {"name": ..., "arguments": {...}}.

    A value is JSON, a constant of Python (True), or else a string. Raises ValueError for an empty name, for an argument
    without a value, or for one that is given twice.
    """
    name, _, query = text.partition("?")
    if not name:
        raise ValueError(f"{text!r} names no backbone: write namespace/name, or namespace/name?argument=value")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ValueError(f"{text!r} has an argument without a value: write namespace/name?argument=value") from error
    arguments = {key: _value(value) for key, value in pairs}
    if len(arguments) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{text!r} has the argument {twice!r} twice: keep one of them")
    return {"name": name, "arguments": arguments}


def refuse_urls(patterns: Sequence[str]) -> None:
    """Raise ValueError for a server's URL among the patterns of a listing, with the option to write."""
    for pattern in patterns:
        scheme, separator, rest = pattern.partition("://")
        if separator:
            server, _, name = rest.partition("/")
            words = f"midrib list {repr(name) + ' ' if name else ''}--server {scheme}://{server}"
            raise ValueError(f"{pattern!r} is the URL of a server: write `{words}`")


def check_out(out: Path) -> None:
    """Raise IsADirectoryError or PermissionError, before anything slow begins, if a file cannot be written."""
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder, expected the path of a file: pass another --out")
    try:
        tempfile.TemporaryFile(dir=out.absolute().parent).close()
    except OSError as error:
        raise PermissionError(
            f"{out.absolute().parent} cannot be written to ({error.strerror}): make the folder, or pass another --out"
        ) from error


def import_modules(names: Sequence[str] | None) -> None:
    """Import modules that register backbones; those in the current folder are found too.

    Raises ImportError for a module that does not exist, or that fails.
    """
    if names:
        sys.path.append(str(Path.cwd()))  # last, so that it hides nothing
    for name in names or ():
        import_module(name)


def import_module(name: str) -> None:
    """Import a module that registers backbones. Raises ImportError for one that does not exist, or that fails."""
    try:
        importlib.import_module(name)
    except Exception as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        advice = "install it, or run the command in its folder" if is_missing else _place(error)
        raise ImportError(f"--import {name} failed with {type(error).__name__}: {error}; {advice}") from error


def server_module(name: str, purpose: str) -> ModuleType:
    """Import a module of the package midrib-server. Raises ImportError, with the install line, if it is missing.

    purpose: the subject of that error, such as "a server for mlp-128".
    """
    try:
        return importlib.import_module(f"midrib.server.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(f"{purpose} needs the server's package ({error}): {_SERVER}") from error


def cluster_module() -> ModuleType:
    """Import midrib-ray's module for `--ray`. Raises ImportError, with the install line, if a package is missing."""
    try:
        return importlib.import_module("midrib.ray.cluster")
    except ModuleNotFoundError as error:
        raise ImportError(f"--ray needs Ray and midrib-ray ({error}): pip install 'midrib-ray[ray,local]'") from error


def _place(error: BaseException) -> str:
    """Return the line that raised an error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"it was raised at {frame.filename}:{frame.lineno}"


def _value(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
