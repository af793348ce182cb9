"""The registry's errors; each derives from the builtin error that a caller expects."""

from __future__ import annotations


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
