"""Every Python example of a document runs: all `python` blocks of a page, from top to bottom, in one session."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from midrib.backbones import BACKBONES
from midrib.server.testing import RunningServer, serving
from tests.small_runs import IGNORED_HINTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "CONTRIBUTING.md",
    "README.md",
    "docs/errors.md",
    "docs/remote.md",
    "docs/tutorials/flash-user.md",
    "libs/media/README.md",
    "libs/wire/README.md",
    "server/README.md",
]
# Run by other tests, with special fixtures or packages.
RUN_ELSEWHERE = {
    "docs/backbones.md": "libs/backbones/tests/test_backbone_documents.py",
    "docs/finetuning.md": "tests/test_task_docs.py",
    "docs/protocols.md": "server/tests/test_docs_protocols.py",
    "docs/ray.md": "libs/ray/tests/test_ray_pages.py",
    "docs/recipes/frameworks.md": "tests/test_recipes.py",
    "docs/recipes/tables.md": "tests/test_recipes.py",
    "docs/recipes/vector-stores.md": "tests/test_recipes.py",
    "docs/task.md": "tests/test_task_docs.py",
    "docs/tutorials/data-engineer.md": "tests/test_docs_tutorials.py",
    "libs/backbones/README.md": "libs/backbones/tests/test_backbone_documents.py",
    "libs/integrations/README.md": "libs/integrations/tests/test_encoder.py",
    "libs/ray/README.md": "libs/ray/tests/test_ray_pages.py",
    "libs/registry/README.md": "libs/registry/tests/test_registry_readme.py",
    "libs/remote/README.md": "tests/test_remote_readme.py",
    "libs/task/README.md": "tests/test_task_docs.py",
}
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("libs/*/README.md"), *ROOT.glob("*/README.md")]
WRITTEN_ADDRESS = "localhost:50051"

pytestmark = IGNORED_HINTS


@pytest.fixture(scope="module")
def page_server() -> Iterator[RunningServer]:
    """A server for the address that the pages write."""
    perceptron = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}
    with serving(perceptron, "image/classification/efficientnet-lite0", warm_up_s=0.0) as running:
        yield running


def python_blocks(page: str) -> str:
    """Return the code of a page's `python` blocks, joined."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(
    page: str, page_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader would paste them; only the address of the server differs."""
    monkeypatch.chdir(tmp_path)
    code = python_blocks(page).replace(WRITTEN_ADDRESS, page_server.address)
    names = {"__name__": "page"}
    with BACKBONES.temporary():
        exec(compile(code, page, "exec"), names)
    assert len(names) > 1


def test_every_page_with_examples_has_a_test() -> None:
    """A page that gets its first example is added to one of the two lists."""
    pages = {str(path.relative_to(ROOT)) for path in DOCUMENTS if "```python\n" in path.read_text()}
    assert pages == {*PAGES, *RUN_ELSEWHERE}
