"""Names to loaders: register a backbone once, find it by name, load it with its contract checked."""

from midrib.registry._concat import ConcatRegistry
from midrib.registry._description import Description, Explanation
from midrib.registry._entry import Entry, Loader
from midrib.registry._errors import (
    AmbiguousKeyError,
    ContractError,
    DuplicateKeyError,
    MissingLibraryError,
    UnknownKeyError,
)
from midrib.registry._external import ExternalRegistry
from midrib.registry._inputs import AudioInput, ImageInput, InputSpec, TensorInput, TextInput
from midrib.registry._lookup import AbstractRegistry
from midrib.registry._plugins import PluginFailure
from midrib.registry._registry import Registry

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
    "MissingLibraryError",
    "PluginFailure",
    "Registry",
    "TensorInput",
    "TextInput",
    "UnknownKeyError",
]
