"""The examples of each client's README run, with the package that `clients/conformance` installed."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import trustme

from clients.golden.calls import WHITE_NOISE, png
from midrib.backbones import BACKBONES
from midrib.server.testing import RunningServer, serving

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "clients/build"
WRITTEN_ADDRESS = re.compile(r"(127\.0\.0\.1|embeddings\.example\.org):50051")
# The names that the READMEs write; the golden backbones load at once.
SERVED = [
    {"name": "golden/embedding/text", "aliases": ["text/embedding/all-minilm-l6-v2"]},
    {"name": "golden/embedding/image", "aliases": ["image/classification/efficientnet-lite0"]},
]


TOKEN = "a secret of this test, at least 32 characters"


@pytest.fixture(scope="module", autouse=True)
def _golden_backbones() -> Iterator[None]:
    with BACKBONES.temporary():
        importlib.import_module("clients.golden.backbones")  # registers them
        yield


@pytest.fixture(scope="module")
def readme_server() -> Iterator[RunningServer]:
    with serving(*SERVED) as running:
        yield running


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """Yield a server with TLS and a token, and the file of its authority."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "roots.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (folder / "tokens.toml").write_text(f'[[tokens]]\nname = "me"\nsha256 = "{digest}"\nscopes = ["read", "embed"]\n')
    certificate, tokens = folder / "server.pem", folder / "tokens.toml"
    with serving(*SERVED, tls_certificate=certificate, tls_key=certificate, tokens=tokens) as running:
        yield running, folder / "roots.pem"


Language: TypeAlias = Callable[[str, Path], list[str]]


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


PARAMETERS = pytest.mark.parametrize(
    "language", [typescript, go, cpp, java], ids=lambda language: str(language.__name__)
)


@PARAMETERS
def test_the_first_example_of_a_readme_runs(language: Language, readme_server: RunningServer, tmp_path: Path) -> None:
    """As a reader would paste it; only the address differs."""
    (tmp_path / "leaf.png").write_bytes(png(WHITE_NOISE))
    assert outputs(language, 0, readme_server, tmp_path) == ("2 texts, 1 image\n", "")


@pytest.mark.parametrize("language", [typescript, go, cpp], ids=lambda language: str(language.__name__))
def test_the_second_example_runs_with_tls_and_a_token(
    language: Language, secure_server: tuple[RunningServer, Path], tmp_path: Path
) -> None:
    """A stream of 1,000 rows, without a warning on stderr."""
    server, roots = secure_server
    (tmp_path / "roots.pem").write_bytes(roots.read_bytes())
    assert outputs(language, 1, server, tmp_path) == ("1000 rows\n", "")


def test_the_second_example_in_java_runs(readme_server: RunningServer, tmp_path: Path) -> None:
    """Without TLS, which Debian's netty does not support."""
    assert outputs(java, 1, readme_server, tmp_path) == ("1000 rows\n", "")


def outputs(language: Language, number: int, server: RunningServer, folder: Path) -> tuple[str, str]:
    """Run one of the programs of a README in a folder, and return what it writes to stdout and stderr."""
    name = language.__name__
    if not (BUILD / f"{name}.stamp").exists():
        pytest.skip(f"needs the built client: clients/conformance {name}")
    readme = (ROOT / "clients" / name / "README.md").read_text()
    code = re.findall(r"```\w+\n(.*?)```", readme, re.DOTALL)[number]
    # By name, as a certificate is: Node warns about an address in its place.
    code = WRITTEN_ADDRESS.sub(f"localhost:{server.address.rpartition(':')[2]}", code)
    environment = {
        **os.environ,
        "GOMODCACHE": str(BUILD / "go/cache"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": f"file://{BUILD}/go/proxy",
        "GOSUMDB": "off",
        "PKG_CONFIG_PATH": str(BUILD / "cpp/installed/lib/pkgconfig"),
        "MIDRIB_TOKEN": TOKEN,
    }
    done = subprocess.run(
        language(code, folder), cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
