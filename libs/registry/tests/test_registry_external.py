"""Whole catalogues."""

from __future__ import annotations

from typing import Any

import pytest

from midrib.registry import (
    ContractError,
    ExternalRegistry,
    ImageInput,
    MissingLibraryError,
    Registry,
    TensorInput,
    UnknownKeyError,
)

_MODELS = ["resnet18", "resnet5", "vit/tiny"]
_SERVED = {
    "image/embedding/lite": {"namespace": "image/embedding", "input": ImageInput(224), "num_features": 1280},
    "plain": {},
}


def create(model: str, *, pretrained: bool = True) -> tuple[Any, int]:
    """What timm.create_model is to the catalogue of timm: the module tells how it was made."""
    return (lambda batch: (model, pretrained)), len(model)


def list_models() -> list[str]:
    """The catalogue's own names."""
    return _MODELS


@pytest.fixture()
def catalogue() -> ExternalRegistry:
    """As the catalogue of a library would be declared."""
    return ExternalRegistry(
        create, "lib", "the lib", names=list_models, prefix="lib/", namespace="image", license="MIT"
    )


@pytest.mark.parametrize("key", ["lib/resnet18", "image/lib/resnet18"], ids=["name", "namespace/name"])
def test_a_model_is_loaded_by_its_name_here(catalogue: ExternalRegistry, key: str) -> None:
    """The getter gets the catalogue's own name, and the caller's arguments."""
    module, num_features = catalogue.load(key, pretrained=False)
    assert (module(None), num_features) == (("resnet18", False), 8)


@pytest.mark.parametrize(
    ("key", "there"),
    [
        pytest.param("lib/resnet18", True, id="listed"),
        pytest.param("lib/vit/tiny", True, id="name with a slash"),
        pytest.param("image/lib/resnet5", True, id="full key"),
        pytest.param("lib/resnet9", False, id="not listed"),
        pytest.param("resnet18", False, id="without the prefix"),
        pytest.param("lib/", False, id="the prefix alone"),
        pytest.param("text/lib/resnet18", False, id="another namespace"),
    ],
)
def test_in_agrees_with_get(catalogue: ExternalRegistry, key: str, there: bool) -> None:
    """`in` is true exactly for the keys that `get` finds."""
    assert (key in catalogue) is there


def test_an_unlisted_model_is_unknown(catalogue: ExternalRegistry) -> None:
    """With near names, as in any registry."""
    with pytest.raises(
        UnknownKeyError, match=r"'lib/resnet55' is not in the registry 'lib'; did you mean 'lib/resnet5' or"
    ):
        catalogue.get("lib/resnet55")


def test_len_iteration_and_filters_are_honest(catalogue: ExternalRegistry) -> None:
    """They list the catalogue's models, with the declarations that all models share."""
    assert len(catalogue) == 3
    assert list(catalogue) == ["image/lib/resnet5", "image/lib/resnet18", "image/lib/vit/tiny"]
    assert [entry.name for entry in catalogue.list("*resnet*", exclude="*18")] == ["lib/resnet5"]
    assert [entry.license for entry in catalogue.list(namespace="image", providers="the lib")] == ["MIT"] * 3
    assert catalogue.list(namespace="text") == ()
    assert "lib/resnet18" in catalogue
    with pytest.raises(UnknownKeyError, match="with license='GPL'; it is there with"):
        catalogue.get("lib/resnet18", license="GPL")


def test_a_catalogue_may_be_left_out_of_a_listing(catalogue: ExternalRegistry) -> None:
    """For its names may take seconds to find."""
    assert catalogue.list(catalogues=False) == ()


def test_the_getter_owes_the_same_contract(catalogue: ExternalRegistry) -> None:
    """The arguments and the returned pair are checked as a loader's."""
    with pytest.raises(TypeError, match=r"backbone 'image/lib/resnet18': .*'depth'"):
        catalogue.load("lib/resnet18", depth=3)
    with pytest.raises(ContractError, match="returned 'a' of type str"):
        ExternalRegistry(str, "names", names=lambda: ["a"]).load("a")


def test_names_are_asked_anew_each_time() -> None:
    """The backbones of a server may change."""
    names = ["a"]
    catalogue = ExternalRegistry(create, "server", names=lambda: names)
    assert "b" not in catalogue
    names.append("b")
    assert "b" in catalogue


def test_each_model_may_have_declarations() -> None:
    """A mapping of names holds it; a model's namespace is the beginning of the model's name."""
    catalogue = ExternalRegistry(create, "server", names=lambda: _SERVED, license="MIT")
    lite = catalogue.describe("lite")
    assert (lite.key, lite.num_features, lite.license) == ("image/embedding/lite", 1280, "MIT")
    assert catalogue.get("plain", with_metadata=True).metadata == {"license": "MIT"}
    assert [entry.key for entry in catalogue.list(namespace="image/embedding")] == ["image/embedding/lite"]


def test_a_model_of_another_width_than_declared_is_refused() -> None:
    """The declared width of a model is checked at load."""
    catalogue = ExternalRegistry(create, "server", names=lambda: _SERVED)
    with pytest.raises(ContractError, match="num_features=20, but its registration declares 1280"):
        catalogue.load("lite")


def test_without_names_nothing_is_known_and_everything_may_be_tried() -> None:
    """`in` and `len` know no name; get returns a loader, and only loading shows whether the model exists."""
    catalogue = ExternalRegistry(create, "open", prefix="open/", namespace="image")
    assert (len(catalogue), list(catalogue), "open/x" in catalogue) == (0, [], False)
    assert catalogue.load("open/x")[1] == 1
    assert catalogue.load("image/open/xy")[1] == 2
    with pytest.raises(UnknownKeyError, match="'x' is not in"):
        catalogue.get("x")
    with pytest.raises(UnknownKeyError, match="'open/x' is not in .* with namespace='text'"):
        catalogue.get("open/x", namespace="text")


@pytest.mark.parametrize("key", ["wide-open/x", "text/open/x", "x/image/open/x", "open/"])
def test_an_open_catalogue_answers_only_to_keys_that_begin_with_its_prefix(key: str) -> None:
    """A name that contains the prefix elsewhere belongs to another catalogue."""
    catalogue = ExternalRegistry(create, "open", prefix="open/", namespace="image")
    with pytest.raises(UnknownKeyError, match=f"'{key}' is not in"):
        catalogue.get(key)


def test_a_missing_catalogue_does_not_hand_its_keys_to_another() -> None:
    """sentence-transformers/x is not the model sentence-transformers/x of transformers/, and shadows nothing there."""
    present = ExternalRegistry(create, "open", prefix="open/")
    missing = ExternalRegistry(create, "wide", prefix="wide-open/", requires="no_such_library")
    with pytest.raises(UnknownKeyError, match="may provide it: pip install no_such_library$"):
        (missing + present).get("wide-open/x")
    assert (ExternalRegistry(create, "wide", prefix="wide-open/") + present).explain("wide-open/x").shadows == ()


def test_the_error_for_a_bare_name_lists_the_prefixes() -> None:
    """resnet18 may mean a library's model: the error names the prefix, and the library if it is not installed."""
    both = ExternalRegistry(create, "a", prefix="a/") + ExternalRegistry(
        create, "b", prefix="b/", requires="no_such_library", install="b[all]"
    )
    with pytest.raises(
        UnknownKeyError, match=r"; a model of a whole catalogue needs its prefix: a/, b/ \(pip install b\[all\]\)$"
    ):
        both.get("resnet18")


@pytest.mark.parametrize("names", [list_models, None], ids=["listed", "open"])
def test_without_its_library_a_catalogue_is_empty(names: Any) -> None:
    """The function that lists names is not called; the error for one of its keys has the install line."""
    catalogue = ExternalRegistry(
        create, "lib", names=names, prefix="lib/", requires="no_such_library", install="lib[all]"
    )
    both = Registry("backbones") + catalogue
    assert list(both) == []
    with pytest.raises(
        UnknownKeyError, match=r"a package that is not installed may provide it: pip install lib\[all\]$"
    ):
        both.get("lib/resnet18")
    with pytest.raises(
        UnknownKeyError,
        match=r"'other/x' is not in .*; a model of a hub needs its prefix: lib/ \(pip install lib\[all\]\)$",
    ):
        both.get("other/x")


def test_a_bad_declaration_fails_where_the_catalogue_is_made() -> None:
    """Not when its first model is asked for."""
    with pytest.raises(TypeError, match="input=224: it must be an InputSpec"):
        ExternalRegistry(create, "lib", input=224)


def test_an_explanation_leads_to_the_catalogue(catalogue: ExternalRegistry) -> None:
    """The place where the catalogue was declared, and the arguments of its getter."""
    explained = catalogue.explain("lib/resnet18")
    assert explained.where.startswith(f"{__file__}:")
    assert explained.signature == "(*, pretrained: 'bool' = True) -> 'tuple[Any, int]'"
    assert explained.summary.startswith("What timm.create_model is")


def test_models_of_one_kind_share_their_input() -> None:
    """The declarations of the catalogue hold for each model."""
    catalogue = ExternalRegistry(create, "lib", names=list_models, input=TensorInput((3,)))
    assert {entry.input for entry in catalogue.list()} == {TensorInput((3,))}


def test_a_library_that_goes_missing_between_get_and_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry knows its requirements."""
    catalogue = ExternalRegistry(create, "lib", names=list_models, requires="json")
    entry = catalogue.get("resnet18", with_metadata=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="'resnet18' needs json, not installed here: pip install json"):
        entry.load()
