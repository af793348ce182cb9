"""The registry's errors, and the names that their messages suggest.

Each error derives from the builtin error that a caller expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_MOST_NEAR: Final = 3
# Too many names contain a shorter word to suggest one of them.
_SHORTEST_WORD: Final = 3


class UnknownKeyError(KeyError):
    """No entry has this key; the message gives near names or the command that installs a missing package."""

    def __str__(self) -> str:
        return _sentence(self)


class AmbiguousKeyError(KeyError):
    """Several entries have this key; the message lists them."""

    def __str__(self) -> str:
        return _sentence(self)


class DuplicateKeyError(ValueError):
    """An entry of this identity is already registered; the message names both places."""


class LoaderArgumentError(TypeError):
    """The loader does not take these arguments; the message gives its signature and the nearest argument."""


class MissingLibraryError(ImportError):
    """The entry needs a library that is not installed; the message gives the install line."""


class ContractError(TypeError):
    """The loader did not return (module, num_features); the message shows the value that it returned."""


def _sentence(error: KeyError) -> str:
    # KeyError shows the repr of its argument; our messages are sentences.
    return str(error.args[0]) if error.args else ""


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
        return without_namespaces(sorted(names, key=len))[:_MOST_NEAR]
    return [spellings[near] for near in difflib.get_close_matches(key.casefold(), list(spellings), n=_MOST_NEAR)]


def without_namespaces(names: list[str]) -> list[str]:
    """Return the names without those that repeat another one after a namespace."""
    return [name for name in names if not any(name.endswith(f"/{other}") for other in names)]


def _squeezed(name: str) -> str:
    """Return a name in lower case without punctuation, so that "all_MiniLM" is found in "all-minilm-l6-v2"."""
    return re.sub(r"[\W_]+", "", name.casefold())
