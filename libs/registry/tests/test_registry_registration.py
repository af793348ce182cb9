"""Registering: the ways, the refusals, the places named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Self

import pytest

from midrib.registry import DuplicateKeyError, ImageInput, Registry


def load_plain() -> tuple[Any, int]:
    """A loader whose function has a name."""
    return abs, 1


def load_other() -> tuple[Any, int]:
    """Another one."""
    return abs, 2


class LoadByClass(tuple[Any, int]):
    """A class whose construction gives the pair."""

    __slots__ = ()

    def __new__(cls) -> Self:
        return super().__new__(cls, (abs, 1))


@pytest.fixture()
def registry() -> Registry:
    return Registry("backbones")


@pytest.mark.parametrize(
    ("fn", "name", "key"),
    [
        pytest.param(load_plain, None, "load_plain", id="function"),
        pytest.param(load_plain, "own", "own", id="function, named"),
        pytest.param(functools.partial(load_plain), None, "load_plain", id="partial"),
        pytest.param(functools.partial(functools.partial(load_plain)), None, "load_plain", id="partial of a partial"),
        pytest.param(LoadByClass, None, "LoadByClass", id="class"),
        pytest.param(lambda: (abs, 1), "anonymous", "anonymous", id="lambda, named"),
    ],
)
def test_a_callable_is_registered_under_its_name(
    registry: Registry, fn: Callable[..., Any], name: str | None, key: str
) -> None:
    """Functions, partials and classes have a name; any callable can be given one."""
    assert registry(fn, name) is fn
    assert registry.get(key) is fn
    assert registry.load(key) == (abs, 1)


def test_a_decorator_gives_the_function_back_unchanged(registry: Registry) -> None:
    """The function does not change, so that it can be called and pickled by reference."""
    assert registry(load_plain) is load_plain
    assert registry(name="again", namespace="a/b")(load_plain) is load_plain


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"fn": 3}, TypeError, r"must be callable, got 3", id="not callable"),
        pytest.param({"fn": lambda: 1}, ValueError, r"has no name: pass name=", id="lambda without a name"),
        pytest.param({"name": float}, TypeError, r"`name` must be a str, got <class 'float'>", id="name not a str"),
        pytest.param({"fn": abs, "name": "grpc://a"}, ValueError, r"no '://'", id="URL as a name"),
        pytest.param({"fn": abs, "name": "a/"}, ValueError, r"no slash or blank at its ends", id="slash at the end"),
        pytest.param({"fn": abs, "namespace": ""}, ValueError, r"got the name ''", id="empty namespace"),
        pytest.param({"fn": abs, "name": "a\nb"}, ValueError, r"a name .* is printable", id="line end in a name"),
        pytest.param({"fn": abs, "aliases": ("\ud800",)}, ValueError, r"is printable", id="lone surrogate"),
        pytest.param({"fn": abs, "aliases": (1,)}, TypeError, r"a name must be a str, got 1", id="alias not a str"),
        pytest.param({"fn": abs, "num_features": 0}, ValueError, r"num_features=0: .* positive int", id="no width"),
        pytest.param({"fn": abs, "num_features": True}, ValueError, r"num_features=True", id="width a bool"),
        pytest.param({"fn": abs, "input": 224}, TypeError, r"input=224: it must be an InputSpec", id="input a number"),
    ],
)
def test_a_wrong_registration_is_refused_at_once(
    registry: Registry, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A registration that could never be looked up or loaded fails where it is written."""
    with pytest.raises(error, match=message):
        registry(**arguments)


def test_a_second_registration_names_both_places(registry: Registry) -> None:
    """The error shows the two lines to choose between."""
    registry(load_plain, name="x")
    with pytest.raises(DuplicateKeyError, match=rf"registered at {__file__}:\d+, and again at {__file__}:\d+"):
        registry(load_other, name="x")


def test_a_duplicate_is_a_value_error(registry: Registry) -> None:
    """Callers can catch it without our error classes."""
    registry(load_plain)
    with pytest.raises(ValueError, match="'load_plain' is already in the registry 'backbones'"):
        registry(load_plain)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"name": "x", "namespace": "a"}, id="same name and namespace"),
        pytest.param({"name": "x", "namespace": "a", "license": "MIT"}, id="another description"),
        pytest.param({"name": "a/x"}, id="same key, written as one name"),
        pytest.param({"name": "y", "namespace": "a", "aliases": "x"}, id="alias of the same key"),
        pytest.param({"name": "old", "namespace": "a"}, id="name equal to an alias"),
    ],
)
def test_one_identity_is_registered_once(registry: Registry, second: dict[str, Any]) -> None:
    """The key and the free metadata are the identity; descriptions do not distinguish entries."""
    registry(load_plain, name="x", namespace="a", deprecated_aliases="old")
    with pytest.raises(DuplicateKeyError, match="is already in"):
        registry(load_other, **second)
    assert registry.available_keys() == ["a/x"]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"name": "x", "namespace": "b"}, id="another namespace"),
        pytest.param({"name": "x"}, id="no namespace"),
        pytest.param({"name": "x", "namespace": "a", "type": "big"}, id="other free metadata"),
    ],
)
def test_one_name_may_have_several_identities(registry: Registry, second: dict[str, Any]) -> None:
    """One name may live in several namespaces, or twice in one with another type."""
    registry(load_plain, name="x", namespace="a")
    registry(load_other, **second)
    assert len(registry) == 2


def test_override_replaces_the_whole_entry(registry: Registry) -> None:
    """Nothing of the first entry is left: not its loader, its description, nor its aliases."""
    registry(load_plain, name="x", license="MIT", aliases="other")
    registry(load_other, name="x", override=True)
    assert registry.get("x", with_metadata=True).license is None
    assert registry.get("x") is load_other
    assert len(registry) == 1
    assert "other" not in registry


def test_override_does_not_take_another_entrys_alias(registry: Registry) -> None:
    """It replaces the entry of that very name; one that merely answers to it would vanish unasked."""
    registry(load_plain, name="x", aliases="y")
    registry(load_other, name="z")
    with pytest.raises(DuplicateKeyError, match="'y' is already in .* replace 'x' by override=True"):
        registry(load_other, name="y", override=True)
    with pytest.raises(DuplicateKeyError, match="'y' is already in"):
        registry(load_other, name="z", aliases="y", override=True)
    assert registry.available_keys() == ["x", "z"]


def test_metadata_is_kept_as_declared(registry: Registry) -> None:
    """Each declaration, of one value or several, is shown under its keyword."""
    registry(
        load_plain,
        namespace="a",
        input=ImageInput(8),
        num_features=1,
        providers="me",
        license="MIT",
        aliases=["b"],
        depth=3,
    )
    assert registry.get("load_plain", with_metadata=True).metadata == {
        "namespace": "a",
        "input": ImageInput(8),
        "num_features": 1,
        "providers": ("me",),
        "license": "MIT",
        "aliases": ("b",),
        "depth": 3,
    }


def test_temporary_undoes_registrations_removals_and_overrides(registry: Registry) -> None:
    """A test may change a shared registry, and restores it afterwards."""
    registry(load_plain, name="kept")
    registry(load_plain, name="replaced")
    with registry.temporary() as same:
        registry(load_other, name="replaced", override=True)
        registry(load_other, name="added")
        registry.remove("kept")
        assert same.available_keys() == ["added", "replaced"]
    assert registry.available_keys() == ["kept", "replaced"]
    assert registry.get("replaced") is load_plain


def test_temporary_undoes_after_an_error_too(registry: Registry) -> None:
    """A test that fails leaves nothing behind."""

    def fail() -> None:
        with registry.temporary():
            registry(load_plain)
            registry(lambda: 1)

    with pytest.raises(ValueError, match="has no name"):
        fail()
    assert len(registry) == 0
