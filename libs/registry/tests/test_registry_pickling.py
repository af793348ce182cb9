"""Entries and registries in other processes."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import pickle
from typing import Any

import pytest

from midrib.registry import AbstractRegistry, ExternalRegistry, ImageInput, Registry

REGISTRY = Registry("backbones")


@REGISTRY(name="decorated", namespace="image", input=ImageInput(8), aliases="other", depth=3)
def load_decorated(width: int = 5) -> tuple[Any, int]:
    """Pickled by reference, since the decorator gives it back unchanged."""
    return abs, width


def list_names() -> list[str]:
    """The names of a catalogue."""
    return ["5", "7"]


def get_by_name(name: str) -> tuple[Any, int]:
    """The getter of a catalogue."""
    return abs, int(name)


REGISTRY(functools.partial(load_decorated, width=7), name="partial")
CATALOGUE = ExternalRegistry(get_by_name, "catalogue", names=list_names)


def load_from(registry: AbstractRegistry, key: str) -> tuple[list[str], int]:
    """Use a registry in another process."""
    return registry.available_keys(), registry.load(key)[1]


@pytest.mark.parametrize("key", ["decorated", "partial"])
def test_an_entry_survives_pickling(key: str) -> None:
    """All that was declared, and the loader, by reference where it has a name."""
    entry = REGISTRY.get(key, with_metadata=True)
    again = pickle.loads(pickle.dumps(entry))
    assert (again.key, again.metadata, again.place) == (entry.key, entry.metadata, entry.place)
    assert again.load() == entry.load()


def test_a_decorated_loader_is_pickled_by_reference() -> None:
    """The other process imports it, rather than getting its code."""
    assert pickle.loads(pickle.dumps(load_decorated)) is load_decorated
    assert pickle.loads(pickle.dumps(REGISTRY.get("decorated", with_metadata=True))).fn is load_decorated


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_registrys_copy_is_a_registry_of_its_own(duplicate: Any) -> None:
    """It finds the same, and new entries stay in the copy."""
    again = duplicate(REGISTRY)
    again(load_decorated, name="new")
    again.remove("partial")
    assert again.available_keys() == ["image/decorated", "new"]
    assert REGISTRY.available_keys() == ["image/decorated", "partial"]
    assert again.get("other", depth=3) is load_decorated


@pytest.mark.parametrize(
    ("registry", "key", "expected"),
    [
        pytest.param(REGISTRY, "partial", (["image/decorated", "partial"], 7), id="registry"),
        pytest.param(CATALOGUE, "5", (["5", "7"], 5), id="catalogue"),
        pytest.param(REGISTRY + CATALOGUE, "7", (["5", "7", "image/decorated", "partial"], 7), id="sum"),
    ],
)
def test_a_registry_works_in_another_process(
    registry: AbstractRegistry, key: str, expected: tuple[list[str], int]
) -> None:
    """In a process that shares nothing with this one, it loads the same backbones."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(load_from, (registry, key)) == expected


def test_a_registry_with_a_lambda_cannot_be_pickled() -> None:
    """pickle finds functions by name, and a lambda has none."""
    registry = Registry("backbones")
    registry(lambda: (abs, 1), name="x")
    with pytest.raises((pickle.PicklingError, AttributeError), match="[Cc]an't pickle"):
        pickle.dumps(registry)
