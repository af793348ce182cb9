"""`./pants` on machines with and without the stock launcher and the required Python versions."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture()
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `bootstrap`, with an empty cache; `tmp_path` is the only folder on the PATH."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "build-support" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return module


def launcher(folder: Path, *, version: str) -> Path:
    """Make a `pants` that prints this version."""
    program = folder / "pants"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


def test_the_stock_launcher_is_used_if_it_runs_our_version(bootstrap: ModuleType, tmp_path: Path) -> None:
    """In that case nothing is installed."""
    program = launcher(tmp_path, version=bootstrap.PANTS)
    assert bootstrap.stock_launcher() == program


def test_a_launcher_of_another_version_is_not_used(bootstrap: ModuleType, tmp_path: Path) -> None:
    """Then Pants is installed from the package index."""
    launcher(tmp_path, version="2.99.0")
    assert bootstrap.stock_launcher() is None


def test_the_checkouts_script_is_not_the_stock_launcher(bootstrap: ModuleType, tmp_path: Path) -> None:
    """With the checkout on the PATH it would call itself endlessly."""
    (tmp_path / "pants").symlink_to(ROOT / "pants")
    assert bootstrap.stock_launcher() is None


def test_a_python_that_is_missing_is_named(bootstrap: ModuleType) -> None:
    """The error says which alternative to install."""
    with pytest.raises(SystemExit, match=r"Python 3\.9 with venv was found neither on PATH nor in .*: install it, or"):
        bootstrap.find_python("3.9")


def test_one_version_of_each_tool_is_pinned(bootstrap: ModuleType) -> None:
    """Pants in pants.toml and in the script; buf for the protos and for the TypeScript client."""
    settings = tomllib.loads((ROOT / "pants.toml").read_text())
    (buf,) = re.findall(r"^BUF_VERSION=(\S+)", (ROOT / "build-support" / "clients-buf").read_text(), re.MULTILINE)
    client = json.loads((ROOT / "clients" / "typescript" / "package.json").read_text())
    assert settings["GLOBAL"]["pants_version"] == bootstrap.PANTS
    assert client["devDependencies"]["@bufbuild/buf"] == buf
