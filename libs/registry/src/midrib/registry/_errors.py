"""What can go wrong with a name, grouped by the builtin error that a caller expects."""

from __future__ import annotations


class UnknownKeyError(KeyError):
    """No entry answers to this key; the message gives near names, or the install line that would help."""

    def __str__(self) -> str:
        return _sentence(self)


class AmbiguousKeyError(KeyError):
    """Several entries answer to this key; the message lists them."""

    def __str__(self) -> str:
        return _sentence(self)


class DuplicateKeyError(ValueError):
    """An entry of this identity is already registered; the message names both places."""


class MissingLibraryError(ImportError):
    """The entry needs a library that is not installed; the message gives the install line."""


class ContractError(TypeError):
    """The loader did not return (module, num_features); the message says what came instead."""


def _sentence(error: KeyError) -> str:
    # KeyError shows the repr of its argument; our messages are sentences.
    return str(error.args[0]) if error.args else ""
