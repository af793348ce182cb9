"""Real third-party packages: wheels made here, installed by pip into their own virtual environment."""

from __future__ import annotations

import json
import os
import subprocess
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

import midrib.registry

_HOST = """
from midrib.registry import Registry
BACKBONES = Registry("backbones", plugins="midrib.backbones")
BACKBONES(lambda: (abs, 1), name="builtin")
"""
_LEAF = {
    "acme_leaf/__init__.py": "",
    "acme_leaf/backbones.py": """
from host import BACKBONES

@BACKBONES(name="leaf", namespace="image/embedding", requires="no_such_library", license="MIT")
def load_leaf():
    return len, 3
""",
    "acme_leaf/more.py": """
def add(registry):
    registry(lambda: (len, 4), name="petiole")
""",
}
_THORN = {"acme_thorn.py": "raise RuntimeError('built for another host')"}

_LIST = """
import json
from host import BACKBONES
print(json.dumps({
    "keys": BACKBONES.available_keys(),
    "missing": {entry.key: entry.missing for entry in BACKBONES.list() if entry.missing},
    "from": {key: [BACKBONES.explain(key).package, BACKBONES.explain(key).version] for key in BACKBONES},
    "failures": [failure.as_dict() for failure in BACKBONES.plugin_failures],
}))
"""
_INSTALL_LATE = """
import json, subprocess, sys
from host import BACKBONES
before = BACKBONES.available_keys()
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", sys.argv[1]], check=True)
unseen = BACKBONES.available_keys()
BACKBONES.refresh()
print(json.dumps([before, unseen, BACKBONES.available_keys()]))
"""


class Environment:
    """A virtual environment whose Python finds our sources, and a host program with a registry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "venv" / "bin" / "python"
        venv.create(root / "venv", with_pip=True)
        (root / "host.py").write_text(_HOST)

    def run(self, *arguments: str) -> str:
        """Run its Python; return the output."""
        sources = Path(midrib.registry.__file__).parents[2]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{sources}{os.pathsep}{self.root}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        finished = subprocess.run([str(self.python), *arguments], env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def listing(self) -> Any:
        """The entries that a new process of the host finds."""
        return json.loads(self.run("-c", _LIST))

    def pip(self, *arguments: str) -> None:
        """Run its pip, without an index."""
        self.run("-m", "pip", "-q", *arguments)


def wheel(folder: Path, name: str, files: dict[str, str], entry_points: str) -> str:
    """Write a wheel by hand: a zip with its dist-info; returns its path."""
    information = f"{name}-0.3.dist-info"
    contents = {
        **files,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": f"[midrib.backbones]\n{entry_points}\n",
    }
    contents[f"{information}/RECORD"] = "".join(f"{path},,\n" for path in (*contents, f"{information}/RECORD"))
    path = folder / f"{name}-0.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in contents.items():
            archive.writestr(member, text)
    return str(path)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One for all, since making one takes seconds; each test installs its packages."""
    return Environment(tmp_path_factory.mktemp("environment"))


def test_packages_are_found_broken_shown_and_gone(environment: Environment, tmp_path: Path) -> None:
    """A module that registers by its import and a function, of one package; beside them one that fails."""
    leaf = wheel(tmp_path, "acme_leaf", _LEAF, "leaf = acme_leaf.backbones\nmore = acme_leaf.more:add")
    thorn = wheel(tmp_path, "acme_thorn", _THORN, "thorn = acme_thorn:add")
    environment.pip("install", "--no-index", "--no-deps", leaf, thorn)
    assert environment.listing() == {
        "keys": ["builtin", "image/embedding/leaf", "petiole"],
        "missing": {"image/embedding/leaf": ["no_such_library"]},
        "from": {
            "builtin": [None, None],
            "image/embedding/leaf": ["acme_leaf", "0.3"],
            "petiole": ["acme_leaf", "0.3"],
        },
        "failures": [
            {
                "name": "thorn",
                "value": "acme_thorn:add",
                "package": "acme_thorn",
                "version": "0.3",
                "error": "RuntimeError: built for another host",
            }
        ],
    }
    environment.pip("uninstall", "-y", "acme_leaf", "acme_thorn")
    assert environment.listing()["keys"] == ["builtin"]


def test_a_package_installed_meanwhile_is_found_by_refresh(environment: Environment, tmp_path: Path) -> None:
    """The running process sees it after refresh(), not before."""
    late = wheel(tmp_path, "acme_late", {"acme_late.py": _LEAF["acme_leaf/more.py"]}, "late = acme_late:add")
    assert json.loads(environment.run("-c", _INSTALL_LATE, late)) == [["builtin"], ["builtin"], ["builtin", "petiole"]]
    environment.pip("uninstall", "-y", "acme_late")
