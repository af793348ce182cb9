"""Loading: the contract, the arguments, the missing libraries, the URLs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from midrib.registry import ContractError, LoaderArgumentError, MissingLibraryError, Registry, UnknownKeyError


class Width:
    """A width that is not an int but counts as one, as numpy's are."""

    def __index__(self) -> int:
        return 5


def open_echo(url: str, **kwargs: Any) -> tuple[Callable[[Any], tuple[str, dict[str, Any]]], int]:
    """A resolver whose module shows the arguments that it was opened with."""
    return lambda batch: (url, kwargs), 3


@pytest.fixture()
def registry() -> Registry:
    return Registry("backbones")


@pytest.fixture()
def _echo_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install resolvers for echo:// and broken://, and nothing else."""
    points = EntryPoints(
        [
            EntryPoint("echo", f"{__name__}:open_echo", "midrib.resolvers"),
            EntryPoint("broken", "no_such_package_anywhere:open", "midrib.resolvers"),
        ]
    )
    monkeypatch.setattr("importlib.metadata.entry_points", points.select)
    monkeypatch.setattr(EntryPoint, "load", _load_or_raise)


def _load_or_raise(point: EntryPoint) -> Callable[..., Any]:
    if point.name == "broken":
        raise ModuleNotFoundError("No module named 'no_such_package_anywhere'")
    return open_echo


def test_load_calls_the_loader_with_the_arguments(registry: Registry) -> None:
    """Keyword arguments of any name reach the loader, also `key`."""

    @registry
    def loader(key: str, num_features: int) -> tuple[Any, int]:
        return key.format, num_features

    module, num_features = registry.load("loader", key="<{}>", num_features=7)
    assert (module(1), num_features) == ("<1>", 7)


def test_a_width_of_any_integer_type_is_returned_as_int(registry: Registry) -> None:
    """A loader may return a width of numpy's type, for example."""
    registry(lambda: (abs, Width()), name="x")
    assert registry.load("x") == (abs, 5)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(None, r"returned None of type NoneType, expected \(module, num_features\)", id="nothing"),
        pytest.param(abs, r"returned <built-in function abs> of type builtin", id="the module alone"),
        pytest.param([abs, 3], r"returned \[.*\] of type list", id="list"),
        pytest.param((abs, 3, 4), r"returned a tuple of 3, expected", id="three"),
        pytest.param((3, 3), r"returned 3 of type int as its module, expected a callable", id="not callable"),
        pytest.param((abs, "3"), r"returned num_features='3', expected a positive int", id="width a str"),
        pytest.param((abs, 3.0), r"returned num_features=3.0, expected a positive int", id="width a float"),
        pytest.param((abs, True), r"returned num_features=True, expected a positive int", id="width a bool"),
        pytest.param((abs, 0), r"returned num_features=0, expected a positive int", id="no width"),
        pytest.param(
            (abs, 3), r"returned num_features=3, but its registration declares 4", id="not the declared width"
        ),
    ],
)
def test_a_loader_that_breaks_the_contract_is_a_contract_error(
    registry: Registry, returned: object, message: str
) -> None:
    """The error names the entry, the received value and the expected one."""
    registry(lambda: returned, name="x", namespace="a", num_features=4)
    with pytest.raises(ContractError, match=rf"^the loader of 'a/x' {message}"):
        registry.load("x")


def test_an_option_that_a_loader_passes_on_may_change_the_width(registry: Registry) -> None:
    """The declared width is that without such options; for the loader's own arguments it stays."""

    @registry(name="x", num_features=4)
    def loader(pretrained: bool = True, **options: int) -> tuple[Any, int]:
        return abs, options.get("num_classes", 4 if pretrained else 5)

    assert registry.load("x", num_classes=7) == (abs, 7)
    with pytest.raises(ContractError, match="returned num_features=5, but its registration declares 4"):
        registry.load("x", pretrained=False)


def test_arguments_that_the_loader_does_not_take_are_refused_with_its_signature(registry: Registry) -> None:
    """The loader is not called."""

    @registry(name="x")
    def loader(pretrained: bool = True) -> tuple[Any, int]:
        raise AssertionError("called")

    with pytest.raises(
        LoaderArgumentError,
        match=r"'x': .*; its loader takes \(pretrained: .*bool.* = True\).*'pretained': did you mean 'pretrained'",
    ):
        registry.load("x", pretained=False)


def test_a_loader_without_a_signature_is_called(registry: Registry) -> None:
    """Some builtins have no signature to check; their result is still checked."""
    registry(dict, name="x")
    with pytest.raises(ContractError, match=r"returned {'a': 1} of type dict"):
        registry.load("x", a=1)


def test_errors_that_the_loader_raises_pass_unchanged(registry: Registry) -> None:
    """The loader's author wrote the sentence."""

    @registry(name="x")
    def loader() -> tuple[Any, int]:
        raise FileNotFoundError("weights.safetensors")

    with pytest.raises(FileNotFoundError, match=r"^weights\.safetensors$"):
        registry.load("x")


@pytest.mark.parametrize(
    ("install", "line"),
    [
        pytest.param(None, "pip install no_such_library no_such.either$", id="required names"),
        pytest.param("midrib-backbones[none]", r"pip install midrib-backbones\[none\]$", id="declared install line"),
    ],
)
def test_the_error_for_a_missing_library_has_its_install_line(
    registry: Registry, install: str | None, line: str
) -> None:
    """The entry is listed as needing it; loading it says what to install; the error is an ImportError."""
    registry(lambda: (abs, 1), name="x", requires=("no_such_library", "no_such.either"), install=install)
    assert registry.describe("x").missing == ("no_such_library", "no_such.either")
    with pytest.raises(
        MissingLibraryError, match=rf"'x' needs no_such_library, no_such.either, not installed here: {line}"
    ):
        registry.load("x")


def test_an_installed_library_is_not_missing(registry: Registry) -> None:
    """A requirement that is installed changes nothing for the caller."""
    registry(lambda: (abs, 1), name="x", requires=("json", "importlib.metadata"))
    assert registry.describe("x").missing == ()
    assert registry.load("x") == (abs, 1)


@pytest.mark.usefixtures("_echo_scheme")
@pytest.mark.parametrize("url", ["echo://host:1/image/x", "ECHO://host"], ids=["path", "capitals"])
def test_a_url_is_opened_by_the_resolver_of_its_scheme(registry: Registry, url: str) -> None:
    """The resolver gets the whole URL and the arguments, and owes the same pair."""
    module, num_features = registry.load(url, deadline_s=3)
    assert (module(None), num_features) == ((url, {"deadline_s": 3}), 3)
    assert registry.explain(url).where == f"entry point {__name__}:open_echo"


@pytest.mark.usefixtures("_echo_scheme")
def test_a_url_is_never_known_to_be_there(registry: Registry) -> None:
    """Only opening it shows whether it exists, so `in` is False."""
    assert "echo://host" not in registry


@pytest.mark.usefixtures("_echo_scheme")
@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_a_grpc_url_without_its_package_gives_the_install_line(registry: Registry, scheme: str) -> None:
    """Installing midrib-remote is all that makes remote names work."""
    with pytest.raises(
        UnknownKeyError, match=rf"resolver for {scheme}://, not installed here: pip install midrib-remote"
    ):
        registry.load(f"{scheme}://host/x")


@pytest.mark.usefixtures("_echo_scheme")
def test_a_url_of_an_unknown_scheme_says_who_could_open_it(registry: Registry) -> None:
    """Such a package may exist, but its name is unknown."""
    with pytest.raises(UnknownKeyError, match=r"scheme 's3', .*: write grpc://host:port/.*, or .* midrib\.resolvers"):
        registry.load("s3://bucket/x")


@pytest.mark.usefixtures("_echo_scheme")
def test_a_resolver_that_cannot_be_imported_is_named(registry: Registry) -> None:
    """The fault is the installed package's, and the error says which."""
    with pytest.raises(
        ImportError, match=r"resolver for broken:// \(no_such_package_anywhere:open\) cannot be imported"
    ):
        registry.load("broken://x")


def load_typed(width: int, scale: float = 1.0, pretrained: bool = True, name: str | None = None) -> tuple[Any, int]:
    """Return a module that keeps its arguments."""
    return (lambda batch: (batch, scale, pretrained, name)), width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": "abc"}, "got width='abc' of type str, expected int"),
        ({"width": True}, "got width=True of type bool, expected int"),
        ({"width": 2, "scale": "big"}, "got scale='big' of type str, expected float"),
        ({"width": 2, "pretrained": 1}, "got pretrained=1 of type int, expected bool"),
        ({"width": 2, "name": 3}, r"got name=3 of type int, expected str \| None"),
    ],
    ids=["text", "bool", "float", "number", "optional"],
)
def test_an_argument_of_another_type_is_refused(registry: Registry, arguments: dict[str, Any], message: str) -> None:
    """The annotations of the loader are checked before it runs, so that no library's error shows."""
    registry(load_typed, name="typed")
    with pytest.raises(LoaderArgumentError, match=f"^backbone 'typed' {message}$"):
        registry.load("typed", **arguments)


def test_an_argument_that_fits_its_annotation_is_accepted(registry: Registry) -> None:
    """An int is a float, and anything that counts as an int is one."""
    registry(load_typed, name="typed")
    assert registry.load("typed", width=Width(), scale=2, name=None)[1] == 5
