"""Every example runs as a process, as its first lines describe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from midrib.backbones import BACKBONES

EXAMPLES = Path(__file__).parents[1] / "examples"
NAME = "image/classification/efficientnet-lite0"
REGISTRY = BACKBONES


Run: TypeAlias = Callable[..., str]


@pytest.fixture()
def run(child_environment: dict[str, str], tmp_path: Path) -> Run:
    """A function that runs an example with arguments in an empty folder, and returns its output."""

    def output(name: str, *arguments: str) -> str:
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        done = subprocess.run(
            command, env=child_environment, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return output


def test_texts_are_found_by_their_meaning(run: Run) -> None:
    """A question and its note have no word in common."""
    lines = run("search_by_meaning.py").splitlines()
    assert [line.split("->")[1].split()[1] for line in lines] == ["bakery", "cat", "central", "is"]


def test_a_head_is_trained_on_a_remote_backbone(run: Run, url: str) -> None:
    """The URL is its only argument."""
    assert "12 of 12 new drawings recognised" in run("head_on_remote_backbone.py", url)


def test_a_server_is_called_without_torch(run: Run) -> None:
    """The example embeds a batch and a stream, and handles an error by its reason."""
    *results, mistake = run("serve_and_ask.py").splitlines()[1:4]
    assert results == ["a batch: (3, 8) -> (3, 128)", "a stream: 300 rows"]
    assert mistake.startswith("a mistake: INVALID_INPUT: input.tensor has shape [3, 5]")


def test_a_users_backbone_is_used_by_name(run: Run) -> None:
    """The example registers it, checks its contract, and trains a head on it."""
    assert "test accuracy 1.000" in run("own_backbone.py")


def test_the_first_data_are_pictures_and_texts(run: Run, tmp_path: Path) -> None:
    """`midrib train` takes both; tests of the documents train on them."""
    run("first_data.py")
    assert {path.parent.name for path in tmp_path.glob("textures/*/*.png")} == {"brick", "grass", "gravel"}
    assert (tmp_path / "texts.csv").read_text().startswith("text,kind")


def test_a_notebook_goes_from_a_folder_to_a_head(run: Run, tmp_path: Path) -> None:
    """Its code cells run in order, as one program; a cell may end with an object that shows itself as HTML."""
    notebook = json.loads((EXAMPLES / "from_folder_to_head.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    program = tmp_path / "cells.py"
    shown = "\nassert '<table' in BACKBONES._repr_html_() and 'efficientnet-lite0' in task._repr_html_()"
    program.write_text("\n".join(cells) + shown)
    output = run(str(program))
    assert "accuracy on new patches: 1.0" in output
    assert "['grass', 'grass', 'grass']" in output


def test_every_example_is_run_and_listed() -> None:
    """A new example needs a test here, and a line in the list of examples."""
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {name for name in names if f'run("{name}"' in Path(__file__).read_text()}
    assert names == {name for name in names if f"({name})" in (EXAMPLES / "README.md").read_text()}
