"""Entries from other packages: how they are loaded, and that the failure of one does not affect the others."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable

import pytest

from midrib.registry import PluginFailure, Registry, UnknownKeyError

_ADDS = """
def add(registry):
    registry(lambda: (abs, 1), name="{name}", namespace="plugged")
"""
_FAILS_HALFWAY = """
def add(registry):
    registry(lambda: (abs, 1), name="half")
    registry(lambda: (abs, 1), name="builtin", override=True)
    raise RuntimeError("no weights")
"""


@pytest.fixture()
def registry() -> Registry:
    """A registry with one entry, and with plugins of the group midrib.test."""
    backbones = Registry("backbones", plugins="midrib.test")
    backbones(abs, name="builtin")
    return backbones


@pytest.mark.parametrize(
    ("code", "value"),
    [
        pytest.param(_ADDS.format(name="x"), "plug_kind:add", id="callable that takes the registry"),
        pytest.param(
            "from midrib.registry import Registry\nOWN = Registry('own')\nOWN(abs, name='x', namespace='plugged')",
            "plug_kind:OWN",
            id="registry",
        ),
        pytest.param(
            "from midrib.registry import Registry\nOWN = Registry('a') + Registry('b')\n"
            "OWN(abs, name='x', namespace='plugged')",
            "plug_kind:OWN",
            id="sum of registries",
        ),
    ],
)
def test_a_plugin_adds_entries(registry: Registry, install_package: Callable[..., None], code: str, value: str) -> None:
    """Found at the first look-up, beside the earlier entries."""
    install_package("plug_kind", code, value)
    assert registry.available_keys() == ["builtin", "plugged/x"]
    assert registry.plugin_failures == ()


def test_a_plugins_entry_is_explained_by_its_package(registry: Registry, install_package: Callable[..., None]) -> None:
    """The distribution that declares the entry point, and the line that registers."""
    install_package("plug_explained", _ADDS.format(name="x"), "plug_explained:add")
    explained = registry.explain("x")
    assert (explained.package, explained.version, explained.module) == ("plug_explained", "1.2", "plug_explained")
    assert explained.where.endswith("plug_explained.py:3")


def test_a_registration_in_a_package_that_a_plugin_imports_belongs_to_that_package(
    registry: Registry, install_package: Callable[..., None]
) -> None:
    """The plugin that is being loaded is not named as its source."""
    code = "def add_too(registry):\n    registry(abs, name='too')"
    install_package("plug_imported", code, "plug_imported")
    install_package("plug_importing", "from plug_imported import add_too as add", "plug_importing:add")
    explained = registry.explain("too")
    assert (explained.module, explained.package) == ("plug_imported", None)


def test_a_copy_made_before_the_first_look_up_has_its_plugins_too(
    registry: Registry, install_package: Callable[..., None]
) -> None:
    """Neither finds them at the other's expense."""
    install_package("plug_copied", _ADDS.format(name="x"), "plug_copied:add")
    again = copy.copy(registry)
    assert registry.available_keys() == again.available_keys() == ["builtin", "plugged/x"]


def test_registering_and_repr_load_no_plugins(install_package: Callable[..., None]) -> None:
    """Only a look-up does: an import that registers must not import other packages."""
    install_package("plug_late", "raise RuntimeError('too early')", "plug_late:add")
    registry = Registry("backbones", plugins="midrib.test")
    registry(abs, name="builtin")
    assert repr(registry) == "Registry('backbones')"
    assert "plug_late" not in sys.modules
    assert [failure.error for failure in registry.plugin_failures] == ["RuntimeError: too early"]


def test_a_registry_without_a_group_has_no_plugins(install_package: Callable[..., None]) -> None:
    """Plugins are asked for by the registry's maker."""
    install_package("plug_unasked", _ADDS.format(name="x"), "plug_unasked:add")
    registry = Registry("mine")
    registry.refresh()
    assert (list(registry), registry.plugin_failures) == ([], ())


@pytest.mark.parametrize(
    ("code", "value", "error"),
    [
        pytest.param("import no_such_library", "plug_bad:add", "ModuleNotFoundError: No module named", id="import"),
        pytest.param("raise SystemExit(3)", "plug_bad:add", "SystemExit: 3", id="exit"),
        pytest.param("def (", "plug_bad:add", "SyntaxError: ", id="syntax"),
        pytest.param("", "plug_bad:add", "AttributeError: module 'plug_bad' has no", id="nothing there"),
        pytest.param("add = 3", "plug_bad:add", "TypeError: got a int, expected a callable that", id="a number"),
        pytest.param("def add(): ...", "plug_bad:add", "TypeError: add() takes 0 positional", id="takes nothing"),
        pytest.param(_FAILS_HALFWAY, "plug_bad:add", "RuntimeError: no weights", id="halfway"),
        pytest.param(
            "def add(registry):\n    registry(abs, name='builtin')",
            "plug_bad:add",
            "DuplicateKeyError: 'builtin' is already in",
            id="name taken",
        ),
    ],
)
def test_a_failing_plugin_is_listed_and_adds_nothing(
    registry: Registry, install_package: Callable[..., None], code: str, value: str, error: str
) -> None:
    """Its entries are removed even if it failed halfway, replaced ones are restored, and other plugins are loaded."""
    install_package("plug_bad", code, value)
    install_package("plug_good", _ADDS.format(name="good"), "plug_good:add")
    assert registry.available_keys() == ["builtin", "plugged/good"]
    assert registry.get("builtin") is abs
    [failure] = registry.plugin_failures
    assert (failure.name, failure.value, failure.package, failure.version) == ("plug_bad", value, "plug_bad", "1.2")
    assert failure.error.startswith(error)


def test_an_unknown_key_tells_of_failed_plugins(registry: Registry, install_package: Callable[..., None]) -> None:
    """The key that is missing may be theirs."""
    install_package("plug_told", "raise OSError('disk')", "plug_told:add")
    with pytest.raises(
        UnknownKeyError,
        match=r"the plugin 'plug_told' \(plug_told:add, of plug_told 1.2\) failed to load: OSError: disk$",
    ):
        registry.get("theirs")
    with pytest.raises(UnknownKeyError, match="failed to load: OSError: disk"):
        (Registry("mine") + registry).get("theirs")


def test_refresh_finds_late_installs_and_adds_nothing_twice(
    registry: Registry, install_package: Callable[..., None]
) -> None:
    """Loaded plugins do not change; new ones are added."""
    install_package("plug_early", _ADDS.format(name="early"), "plug_early:add")
    assert registry.available_keys() == ["builtin", "plugged/early"]
    install_package("plug_later", _ADDS.format(name="later"), "plug_later:add")
    assert "later" not in registry
    (Registry("mine") + registry).refresh()
    assert registry.available_keys() == ["builtin", "plugged/early", "plugged/later"]
    assert registry.plugin_failures == ()


def test_refresh_tries_failed_plugins_again(
    registry: Registry, install_package: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its missing library is installed, a plugin loads, and is not listed as failed any more."""
    code = "import os\nif 'PLUG_WORKS' not in os.environ:\n    raise OSError('not yet')\n" + _ADDS.format(name="x")
    install_package("plug_mended", code, "plug_mended:add")
    assert [failure.error for failure in registry.plugin_failures] == ["OSError: not yet"]
    monkeypatch.setenv("PLUG_WORKS", "1")
    registry.refresh()
    assert "plugged/x" in registry
    assert registry.plugin_failures == ()


def test_a_plugin_may_look_up_entries_while_it_loads(registry: Registry, install_package: Callable[..., None]) -> None:
    """It sees the entries so far, and does not wait for itself."""
    code = "def add(registry):\n    registry(registry.get('builtin'), name='copied')"
    install_package("plug_looks", code, "plug_looks:add")
    assert registry.get("copied") is abs
    assert registry.plugin_failures == ()


def test_many_first_look_ups_load_a_plugin_once_and_all_see_it(
    registry: Registry, install_package: Callable[..., None]
) -> None:
    """No thread is answered before the plugins are there."""
    install_package("plug_once", _ADDS.format(name="x"), "plug_once:add")
    start = threading.Barrier(8)
    is_listed: list[bool] = []

    def look_up() -> None:
        start.wait()
        is_listed.append("plugged/x" in registry)

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_listed == [True] * 8
    assert registry.plugin_failures == ()


def test_temporary_keeps_plugins(registry: Registry, install_package: Callable[..., None]) -> None:
    """They are found before the snapshot, so leaving does not lose them."""
    install_package("plug_kept", _ADDS.format(name="x"), "plug_kept:add")
    with registry.temporary():
        pass
    assert "plugged/x" in registry


def test_failures_are_plain_data(registry: Registry, install_package: Callable[..., None]) -> None:
    """They go through pickle and JSON with the registry."""
    install_package("plug_data", "raise OSError('disk')", "plug_data:add")
    failure = PluginFailure("plug_data", "plug_data:add", "plug_data", "1.2", "OSError: disk")
    assert registry.plugin_failures == (failure,)
    assert pickle.loads(pickle.dumps(registry)).plugin_failures == (failure,)
    assert failure.as_dict() == {
        "name": "plug_data",
        "value": "plug_data:add",
        "package": "plug_data",
        "version": "1.2",
        "error": "OSError: disk",
    }
