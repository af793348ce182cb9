"""The parts that several test files of the registry share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture()
def run_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter with the same import path; return its output."""

    def run(code: str) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


@pytest.fixture()
def install_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a module with an entry point of the group midrib.test, for this process alone."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, code: str, value: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        information = tmp_path / f"{name}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (information / "entry_points.txt").write_text(f"[midrib.test]\n{name} = {value}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install
