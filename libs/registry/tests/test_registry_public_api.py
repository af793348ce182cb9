"""The names that `import midrib.registry` gives, and the modules that it imports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import midrib.registry
from midrib.registry import FlashRegistry, Registry

# Prints the modules that the import adds and that are not of the standard library, then what it should not add at all.
_IMPORT = """
import sys
before = set(sys.modules)
import midrib.registry
added = {name for name in set(sys.modules) - before if not name.startswith("midrib")}
print(sorted(name for name in added if name.partition(".")[0] not in sys.stdlib_module_names))
print(sorted(added & {"importlib.metadata", "difflib", "fnmatch", "email", "json", "logging"}))
print("midrib.registry._description" in sys.modules)
"""


def test_the_package_exports_exactly_its_list() -> None:
    """Every public name is in __all__, and no other name is."""
    assert midrib.registry.__all__ == [
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


@pytest.mark.parametrize("name", midrib.registry.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    """The list holds no name that the package lacks, those that are built late included."""
    assert getattr(midrib.registry, name) is not None


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    """Names that are made at first use do not hide misspelt ones."""
    with pytest.raises(AttributeError, match="'midrib.registry' has no attribute 'Backbone'"):
        _ = midrib.registry.Backbone


def test_the_guides_name_is_the_same_class() -> None:
    """Code written for Lightning Flash's FlashRegistry needs only another import."""
    assert FlashRegistry is Registry


def test_the_import_is_light_and_of_the_standard_library_alone(run_python: Callable[[str], str]) -> None:
    """A command that only lists names answers at once: modules that few calls need are imported by those."""
    assert run_python(_IMPORT) == "[]\n[]\nFalse\n"
