"""The example at the top of each client's README runs, with the package that `clients/conformance` installed."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.golden.calls import WHITE_NOISE, png
from midrib.backbones import BACKBONES
from midrib.server.testing import RunningServer, serving

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "clients/build"
WRITTEN_ADDRESS = "127.0.0.1:50051"
# The names that the READMEs write; the golden backbones load at once.
SERVED = [
    {"name": "golden/embedding/text", "aliases": ["text/embedding/all-minilm-l6-v2"]},
    {"name": "golden/embedding/image", "aliases": ["image/classification/efficientnet-lite0"]},
]


@pytest.fixture(scope="module")
def readme_server() -> Iterator[RunningServer]:
    with BACKBONES.temporary():
        importlib.import_module("clients.golden.backbones")  # registers them
        with serving(*SERVED) as running:
            yield running


def typescript(code: str, folder: Path) -> list[str]:
    """Return the command of a program, which lies beside the installed package."""
    (folder / "node_modules").symlink_to(BUILD / "typescript/node_modules")
    (folder / "readme.mjs").write_text(code)  # it has no types to strip
    return ["node", "readme.mjs"]


def go(code: str, folder: Path) -> list[str]:
    """Return the command of a program that depends on the module."""
    for name in ("go.mod", "go.sum"):
        (folder / name).write_text((BUILD / "go/program" / name).read_text())
    (folder / "main.go").write_text(code)
    return ["go", "run", "."]


def cpp(code: str, folder: Path) -> list[str]:
    """Return the command of a program that pkg-config linked with the library."""
    (folder / "readme.cc").write_text(code)
    build = "g++ -std=c++17 readme.cc -o readme $(pkg-config --cflags --libs midrib) && ./readme"
    return ["sh", "-c", build]


def java(code: str, folder: Path) -> list[str]:
    """Return the command of a program of one file, with the library on its class path."""
    (folder / "Readme.java").write_text(code)
    return ["java", f"@{BUILD}/java/arguments", "Readme.java"]


@pytest.mark.parametrize("language", [typescript, go, cpp, java], ids=lambda language: str(language.__name__))
def test_the_example_of_a_readme_runs(
    language: Callable[[str, Path], list[str]], readme_server: RunningServer, tmp_path: Path
) -> None:
    """As a reader would paste it; only the address differs."""
    name = language.__name__
    if not (BUILD / f"{name}.stamp").exists():
        pytest.skip(f"needs the built client: clients/conformance {name}")
    readme = (ROOT / "clients" / name / "README.md").read_text()
    code = re.findall(r"```\w+\n(.*?)```", readme, re.DOTALL)[0].replace(WRITTEN_ADDRESS, readme_server.address)
    (tmp_path / "leaf.png").write_bytes(png(WHITE_NOISE))
    environment = {
        **os.environ,
        "GOMODCACHE": str(BUILD / "go/cache"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": f"file://{BUILD}/go/proxy",
        "GOSUMDB": "off",
        "PKG_CONFIG_PATH": str(BUILD / "cpp/installed/lib/pkgconfig"),
    }
    command = language(code, tmp_path)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert (done.returncode, done.stdout) == (0, "2 texts, 1 image\n"), done.stderr
