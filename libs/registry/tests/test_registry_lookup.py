"""Finding: keys, metadata, ambiguity, unknown keys, old names."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from midrib.registry import AmbiguousKeyError, Registry, UnknownKeyError


def load_a() -> tuple[Any, int]:
    """One loader."""
    return abs, 1


def load_b() -> tuple[Any, int]:
    """Another."""
    return abs, 2


@pytest.fixture()
def registry() -> Registry:
    return Registry("backbones")


@pytest.mark.parametrize(
    ("name", "namespace", "key"),
    [
        pytest.param("mlp", None, "mlp", id="name"),
        pytest.param("mlp", "template/classification", "mlp", id="bare name of a namespaced entry"),
        pytest.param("mlp", "template/classification", "template/classification/mlp", id="namespace/name"),
        pytest.param("timm/resnet18", None, "timm/resnet18", id="name with a slash"),
        pytest.param("timm/resnet18", "image/embedding", "timm/resnet18", id="bare name with a slash"),
        pytest.param("timm/resnet18", "image/embedding", "image/embedding/timm/resnet18", id="both with slashes"),
    ],
)
def test_an_entry_answers_to_its_name_and_its_key(
    registry: Registry, name: str, namespace: str | None, key: str
) -> None:
    """Keys are compared whole, so a slash in a name means nothing."""
    registry(load_a, name=name, namespace=namespace)
    assert registry.get(key) is load_a
    assert key in registry


@pytest.mark.parametrize("key", ["ml", "classification/mlp", "template/mlp", "mlp/", "MLP", ""])
def test_part_of_a_key_is_not_a_key(registry: Registry, key: str) -> None:
    """Nothing is found by a piece of its name or of its namespace."""
    registry(load_a, name="mlp", namespace="template/classification")
    assert key not in registry
    with pytest.raises(UnknownKeyError, match=r"is not in the registry 'backbones'"):
        registry.get(key)


def test_an_object_that_is_not_a_string_is_not_in_a_registry(registry: Registry) -> None:
    """`in` answers for any object, as for any container."""
    assert 3 not in registry


def test_an_ambiguous_key_lists_its_matches(registry: Registry) -> None:
    """The error lists the entries, and how to choose one of them."""
    registry(load_a, name="x", namespace="image")
    registry(load_b, name="x", namespace="text")
    with pytest.raises(
        AmbiguousKeyError, match=rf"2 entries .*namespace=.*\n  image/x .*{__file__}:\d+\)\n  text/x .*\d+\)"
    ):
        registry.get("x")


@pytest.mark.parametrize("method", ["load", "describe", "explain"])
def test_several_matches_are_an_error_for_a_single_entry(registry: Registry, method: str) -> None:
    """No method chooses one of several silently."""
    registry(load_a, name="x", namespace="image")
    registry(load_b, name="x", namespace="text")
    with pytest.raises(KeyError, match="leads to 2 entries"):
        getattr(registry, method)("x")


def test_metadata_selects_one_of_several_entries(registry: Registry) -> None:
    """Any declared value distinguishes entries; namespace=None means the entry without a namespace."""
    registry(load_a, name="x")
    registry(load_b, name="x", namespace="text", providers=("us", "them"), depth=3)
    assert registry.get("x", namespace=None) is load_a
    assert registry.get("x", namespace="text") is load_b
    assert registry.get("x", depth=3) is load_b
    assert registry.get("x", providers="them") is load_b


def test_a_full_key_is_not_made_ambiguous_by_a_bare_name_that_looks_like_it(registry: Registry) -> None:
    """A plugin that names its entry like our key cannot break those who use the key."""
    registry(load_a, name="mlp", namespace="template")
    registry(load_b, name="template/mlp", namespace="elsewhere")
    assert registry.get("template/mlp") is load_a
    assert registry.get("template/mlp", namespace="elsewhere") is load_b


def test_not_strict_gives_every_match(registry: Registry) -> None:
    """strict=False asks for all, in the order of registration; entries where with_metadata."""
    registry(load_a, name="x", namespace="image")
    registry(load_b, name="x", namespace="text")
    assert registry.get("x", strict=False) == [load_a, load_b]
    assert [entry.key for entry in registry.get("x", with_metadata=True, strict=False)] == ["image/x", "text/x"]
    with pytest.raises(UnknownKeyError, match="'y' is not in"):
        registry.get("y", strict=False)


def test_an_unknown_key_is_a_sentence_with_near_names(registry: Registry) -> None:
    """The error is a KeyError whose text is not the repr of a text, and names similar keys."""
    registry(load_a, name="efficientnet-lite0", namespace="image")
    with pytest.raises(KeyError, match="is not in") as caught:
        registry.get("image/eficientnet-lite0")
    assert str(caught.value) == (
        "'image/eficientnet-lite0' is not in the registry 'backbones'; "
        "did you mean 'image/efficientnet-lite0' or 'efficientnet-lite0'?"
    )


def test_an_unknown_key_of_a_small_registry_lists_the_names(registry: Registry) -> None:
    """A registry of at most 20 names, such as that of the optimizers, fits into the sentence."""
    registry(load_a, name="adam")
    registry(load_a, name="sgd", namespace="plain")
    with pytest.raises(UnknownKeyError, match=r"'zzz' is not in .*; it has adam, sgd$"):
        registry.get("zzz")


def test_the_error_for_a_key_without_near_names_says_how_to_list(registry: Registry) -> None:
    """Without a suggestion, the message still has a next step."""
    with pytest.raises(UnknownKeyError, match=r"'zzz' is not in .*; its available_keys\(\) lists every name$"):
        registry.get("zzz")


@pytest.mark.parametrize("word", ["minilm", "all_MiniLM", "l6v2"])
def test_a_word_of_a_name_suggests_it(registry: Registry, word: str) -> None:
    """Users remember a part of a long name, and punctuation and case differ between sources."""
    registry(load_a, name="all-minilm-l6-v2", namespace="text/embedding")
    with pytest.raises(UnknownKeyError, match=r"; did you mean 'all-minilm-l6-v2'\?$"):
        registry.get(word)


def test_a_key_with_arguments_says_how_to_pass_them(registry: Registry) -> None:
    """The command line's form of a name is not a key."""
    registry(load_a, name="mlp")
    with pytest.raises(
        UnknownKeyError,
        match=r"; pass the arguments as keywords, as in load\('mlp', width=8, depth=2\); did you mean 'mlp'\?$",
    ):
        registry.get("mlp?width=8&depth=2")


@pytest.mark.parametrize("key", [None, 3, ["x"]], ids=["none", "number", "list"])
def test_a_key_that_is_not_a_text_is_shown(registry: Registry, key: Any) -> None:
    """The sentence gives a name that exists."""
    registry(load_a, name="x")
    with pytest.raises(TypeError, match=r"^got .* of type .*, expected a name of .* as a str, such as 'x'$"):
        registry.get(key)


def test_known_under_other_metadata_says_which(registry: Registry) -> None:
    """The key was right; the error shows what the entry declares."""
    registry(load_a, name="x", depth=3)
    with pytest.raises(UnknownKeyError, match=r"'x' is not in .* with depth=4; it is there with {'depth': 3}$"):
        registry.get("x", depth=4)


def test_remove_takes_all_that_the_key_and_the_metadata_lead_to(registry: Registry) -> None:
    """Afterwards the key is unknown, and entries that did not match remain."""
    registry(load_a, name="x", namespace="image")
    registry(load_a, name="x", namespace="text", depth=1)
    registry(load_a, name="x", namespace="text", depth=2)
    registry.remove("text/x", depth=1)
    assert len(registry) == 2
    registry.remove("x")
    assert len(registry) == 0
    assert "x" not in registry
    with pytest.raises(UnknownKeyError, match="'x' is not in"):
        registry.remove("x")


def test_an_alias_leads_to_its_entry(registry: Registry) -> None:
    """With and without the namespace, and no warning: it is a name like the other."""
    registry(load_a, name="x", namespace="image", aliases=("y", "z"))
    assert registry.get("y") is load_a
    assert registry.get("image/z") is load_a
    assert registry.available_keys() == ["image/x"]


@pytest.mark.parametrize("key", ["warned-old", "image/warned-old"], ids=["bare", "full"])
def test_an_old_name_warns_once_and_leads_to_the_new_one(registry: Registry, key: str) -> None:
    """The warning names the new key, and the user's own line; the second time there is none."""
    registry(load_a, name="warned-new", namespace="image", deprecated_aliases="warned-old")
    with pytest.warns(
        DeprecationWarning, match=f"'{key}' is an old name and will be removed: use 'image/warned-new'"
    ) as caught:
        assert registry.get(key) is load_a
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.load(key) == (abs, 1)


def test_looking_at_an_old_name_does_not_warn(registry: Registry) -> None:
    """Only use warns: `in` and describe are for those who find out."""
    registry(load_a, name="new", deprecated_aliases="looked-at-old")
    assert "looked-at-old" in registry
    assert registry.describe("looked-at-old").key == "new"
