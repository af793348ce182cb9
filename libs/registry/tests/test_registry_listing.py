"""Listing, describing, explaining: plain data for people and for JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import AudioInput, ImageInput, Registry, TensorInput, TextInput


def load_lite(pretrained: bool = True) -> tuple[Any, int]:
    """Small and quick.

    And more about it.
    """
    return abs, 1280


@pytest.fixture()
def registry() -> Registry:
    """Five entries in three namespaces."""
    backbones = Registry("backbones")
    for name in ("mlp-10", "mlp-2", "Mlp-3"):
        backbones(lambda: (abs, 1), name=name, namespace="template")
    backbones(
        load_lite, name="lite0", namespace="image/classification", input=ImageInput(224), num_features=1280, depth=3
    )
    backbones(functools.partial(load_lite), name="vit", namespace="text", providers=["us", "them"], license="MIT")
    return backbones


def test_keys_come_in_natural_order(registry: Registry) -> None:
    """2 before 10, and case does not matter first."""
    assert registry.available_keys() == [
        "image/classification/lite0",
        "template/mlp-2",
        "template/Mlp-3",
        "template/mlp-10",
        "text/vit",
    ]


def test_iteration_len_and_in_agree(registry: Registry) -> None:
    """One key for each entry, each of them in the registry, though two entries may share one."""
    registry(load_lite, name="vit", namespace="text", depth=4)
    assert len(registry) == len(list(registry)) == 6
    assert list(registry).count("text/vit") == 2
    assert registry.available_keys().count("text/vit") == 1
    assert all(key in registry for key in registry)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        pytest.param({}, ["lite0", "mlp-2", "Mlp-3", "mlp-10", "vit"], id="all"),
        pytest.param({"pattern": "*vi*"}, ["vit"], id="wildcard"),
        pytest.param({"pattern": "mlp-*"}, ["mlp-2", "Mlp-3", "mlp-10"], id="matched with the name"),
        pytest.param(
            {"pattern": "template/MLP-*"}, ["mlp-2", "Mlp-3", "mlp-10"], id="matched with the key, in any case"
        ),
        pytest.param({"pattern": ["lite?", "vit"]}, ["lite0", "vit"], id="several"),
        pytest.param({"pattern": iter(["vit"])}, ["vit"], id="any iterable"),
        pytest.param(
            {"pattern": []}, ["lite0", "mlp-2", "Mlp-3", "mlp-10", "vit"], id="without wildcards all are listed"
        ),
        pytest.param({"exclude": "*mlp*"}, ["lite0", "vit"], id="exclude"),
        pytest.param({"pattern": "classif"}, ["lite0"], id="a plain word matches anywhere"),
        pytest.param({"exclude": "MLP"}, ["lite0", "vit"], id="a plain word excludes anywhere"),
        pytest.param({"pretrained": True}, ["lite0", "vit"], id="the loader offers weights"),
        pytest.param({"pretrained": False}, ["mlp-2", "Mlp-3", "mlp-10"], id="the loader offers none"),
        pytest.param({"family": "lite"}, ["lite0"], id="a family that the name spells"),
        pytest.param({"family": "MLP"}, ["mlp-2", "Mlp-3", "mlp-10"], id="a family in any case"),
        pytest.param({"exclude": ["*lp*", "text/*"]}, ["lite0"], id="exclude several"),
        pytest.param({"pattern": "template/*", "exclude": "*-10"}, ["mlp-2", "Mlp-3"], id="both"),
        pytest.param({"namespace": "template"}, ["mlp-2", "Mlp-3", "mlp-10"], id="namespace"),
        pytest.param({"depth": 3}, ["lite0"], id="free metadata"),
        pytest.param({"providers": "them"}, ["vit"], id="one of the providers"),
        pytest.param({"providers": ("us", "them")}, ["vit"], id="all the providers"),
        pytest.param({"pattern": "nothing*"}, [], id="nothing"),
    ],
)
def test_a_listing_takes_wildcards_and_metadata(
    registry: Registry, arguments: dict[str, Any], names: list[str]
) -> None:
    """Any pattern takes in, any exclude leaves out, all metadata must be declared."""
    assert [entry.name for entry in registry.list(**arguments)] == names


def test_a_declared_family_wins_over_the_name(registry: Registry) -> None:
    """A registration that declares its family is found under that one alone."""
    registry(load_lite, name="tf_net", family="EfficientNet", pretrained=False)
    assert [entry.name for entry in registry.list(family="EfficientNet")] == ["tf_net"]
    assert registry.list(family="net") == ()
    assert "tf_net" not in [entry.name for entry in registry.list(pretrained=True)]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        pytest.param("licence", "did you mean 'license'", id="declared"),
        pytest.param("dept", "did you mean 'depth'", id="free metadata"),
        pytest.param("zzzz", "expected one of aliases, ", id="nothing near"),
    ],
)
def test_metadata_that_no_entry_declares_is_an_error(registry: Registry, name: str, advice: str) -> None:
    """A misspelt key gives the nearest name, not an empty list."""
    with pytest.raises(TypeError, match=f"no entry of the registry 'backbones' declares '{name}'; {advice}"):
        registry.list(None, exclude=None, catalogues=True, **{name: 1})


def test_a_description_has_all_declarations(registry: Registry) -> None:
    """They are in JSON's types; an input has its kind."""
    assert json.loads(json.dumps(registry.describe("lite0").as_dict())) == {
        "key": "image/classification/lite0",
        "name": "lite0",
        "namespace": "image/classification",
        "input": {
            "kind": "image",
            "size": 224,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop": 0.875,
            "squash": False,
            "width": None,
            "border": False,
        },
        "num_features": 1280,
        "providers": [],
        "license": None,
        "aliases": [],
        "deprecated_aliases": [],
        "requires": [],
        "missing": [],
        "install": None,
        "remote_arguments": None,
        "summary": "Small and quick.",
        "metadata": {"depth": 3},
    }


def test_a_description_is_frozen(registry: Registry) -> None:
    """It is a record of the declarations, and does not load the entry."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="num_features"):
        registry.describe("lite0").num_features = 1  # type: ignore[misc] # wrong on purpose


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        pytest.param(TensorInput((3, None)), {"kind": "tensor", "shape": [3, None], "dtype": "float32"}, id="tensor"),
        pytest.param(TextInput(256), {"kind": "text", "max_tokens": 256}, id="text"),
        pytest.param(AudioInput(16_000), {"kind": "audio", "rate": 16_000}, id="audio"),
    ],
)
def test_every_input_has_its_kind(registry: Registry, spec: Any, kind: dict[str, Any]) -> None:
    """Readers in other languages distinguish inputs by it."""
    registry(load_lite, name="x", input=spec)
    assert registry.describe("x").as_dict()["input"] == kind


def test_metadata_of_any_type_becomes_json(registry: Registry) -> None:
    """Values that JSON does not have are written as text."""
    registry(load_lite, name="x", shape={"a": (1, 2.5)}, kind=complex(1, 2), flags={True})
    assert registry.describe("x").as_dict()["metadata"] == {"flags": [True], "kind": "(1+2j)", "shape": {"a": [1, 2.5]}}


@pytest.mark.parametrize(("key", "summary"), [("vit", "Small and quick."), ("mlp-2", "")], ids=["partial", "none"])
def test_the_summary_is_the_loaders_first_line(registry: Registry, key: str, summary: str) -> None:
    """A partial speaks for its function; a loader without a docstring says nothing."""
    assert registry.describe(key).summary == summary


def test_a_missing_library_is_listed_with_its_install_line(registry: Registry) -> None:
    """The entry is listed, with its missing library."""
    registry(load_lite, name="heavy", requires=("json", "no_such_library"), install="heavy[all]")
    [described] = registry.list("heavy")
    assert (described.missing, described.install) == (("no_such_library",), "pip install heavy[all]")


def test_an_explanation_tells_where_an_entry_comes_from(registry: Registry) -> None:
    """The description, and file:line, module, signature."""
    explained = registry.explain("lite0")
    assert explained.where.startswith(f"{__file__}:")
    assert explained.module == __name__
    assert explained.signature == "(pretrained: 'bool' = True) -> 'tuple[Any, int]'"
    assert (explained.package, explained.version, explained.shadows) == (None, None, ())
    assert explained.as_dict().items() >= registry.describe("lite0").as_dict().items()


def test_an_explanation_names_the_installed_package() -> None:
    """Found by the module that registered, in the package that installed it."""
    registry = Registry("backbones")
    code = "def load():\n    return abs, 1\nregistry(load)"
    exec(compile(code, "plugin.py", "exec"), {"__name__": "pytest", "registry": registry})  # (our own text)
    explained = registry.explain("load")
    assert (explained.where, explained.package, explained.version) == ("plugin.py:3", "pytest", pytest.__version__)


def test_an_explanation_tells_the_packages_of_one_namespace_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a namespace package such as midrib, acme.leaf is installed by the package acme-leaf."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, module, version in (("acme_leaf", "leaf", "0.3"), ("acme_stem", "stem", "7")):
        information = tmp_path / f"{name}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (information / "RECORD").write_text(f"acme/{module}/__init__.py,,\n")
    registry = Registry("backbones")
    exec("registry(abs)", {"__name__": "acme.leaf.more", "registry": registry})
    exec("registry(len)", {"__name__": "acme.root", "registry": registry})
    leaf, root = registry.explain("abs"), registry.explain("len")
    assert (leaf.package, leaf.version) == ("acme_leaf", "0.3")
    assert (root.package, root.version) == (None, None)


def test_a_module_of_an_ordinary_package_is_not_credited_to_its_namesake(
    install_package: Callable[..., None],
) -> None:
    """json.tool is not of the package json-tool, because json is not a namespace that packages share."""
    install_package("json-tool", "", "json_tool")
    registry = Registry("backbones")
    exec("registry(abs)", {"__name__": "json.tool", "registry": registry})
    explained = registry.explain("abs")
    assert (explained.package, explained.version) == (None, None)


def test_a_loader_without_a_signature_is_explained_too(registry: Registry) -> None:
    """Some builtins have none."""
    registry(dict, name="x")
    assert registry.explain("x").signature == "(...)"


def test_a_notebook_shows_a_table() -> None:
    """Every text is escaped: names and licences are other people's."""
    registry = Registry("mine")
    registry(abs, name="a<b", input=ImageInput(224), num_features=8, license="A & B")
    html = registry._repr_html_()
    assert "<td>a&lt;b</td><td>image 224</td><td>8</td><td>A &amp; B</td><td></td>" in html
    assert "the registry &#x27;mine&#x27;" in html
