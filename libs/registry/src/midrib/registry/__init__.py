"""Names to loaders: register a backbone once, find it by name, load it with its contract checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from midrib.registry._entry import Entry, Loader
from midrib.registry._errors import (
    AmbiguousKeyError,
    ContractError,
    DuplicateKeyError,
    LoaderArgumentError,
    MissingLibraryError,
    UnknownKeyError,
    nearest,
    suggestion,
)
from midrib.registry._external import ExternalRegistry
from midrib.registry._inputs import AudioInput, ImageInput, InputSpec, TensorInput, TextInput, in_words
from midrib.registry._lookup import AbstractRegistry, ConcatRegistry
from midrib.registry._plugins import PluginFailure
from midrib.registry._registry import Registry

if TYPE_CHECKING:
    from midrib.registry._description import Description, Explanation

FlashRegistry = Registry

__all__ = [
    "AbstractRegistry",
    "AmbiguousKeyError",
    "AudioInput",
    "ConcatRegistry",
    "ContractError",
    "Description",
    "DuplicateKeyError",
    "Entry",
    "Explanation",
    "ExternalRegistry",
    "FlashRegistry",
    "ImageInput",
    "InputSpec",
    "Loader",
    "LoaderArgumentError",
    "MissingLibraryError",
    "PluginFailure",
    "Registry",
    "TensorInput",
    "TextInput",
    "UnknownKeyError",
    "in_words",
    "nearest",
    "suggestion",
]


def __getattr__(name: str) -> Any:
    # Importing this library must stay fast, so the classes that only listings use are built on first use.
    if name in ("Description", "Explanation"):
        from midrib.registry import _description

        return getattr(_description, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
