"""Every example runs, as a process, as its own first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from midrib.server.testing import serving

EXAMPLES = Path(__file__).parents[1] / "examples"
BACKBONE = "image/classification/efficientnet-lite0"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(BACKBONE) as server:
        yield server.url(BACKBONE)


def run(name: str, *arguments: str) -> str:
    """What an example prints, without what Lightning says on the way."""
    # An example may start a server of its own: what this process imports, its children's children do.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_texts_are_found_by_what_they_mean() -> None:
    """A question and its note share no word."""
    lines = run("search_by_meaning.py").splitlines()
    assert [line.split("->")[1].split()[1] for line in lines] == ["bakery", "cat", "central", "is"]


def test_a_head_is_trained_on_a_remote_backbone(url: str) -> None:
    """The URL is its only argument."""
    assert "12 of 12 new drawings recognised" in run("head_on_remote_backbone.py", url)


def test_a_server_is_asked_without_torch() -> None:
    """A batch, a stream, and a mistake that has a reason."""
    *listener, mistake = run("serve_and_ask.py").splitlines()[1:4]
    assert listener == ["a batch: (3, 8) -> (3, 128)", "a stream: 300 rows"]
    assert mistake.startswith("a mistake: INVALID_INPUT: input.tensor has shape [3, 5]")


def test_a_backbone_of_ones_own_is_used_by_name() -> None:
    """Registered, held to the contract, trained on."""
    assert "test accuracy 1.000" in run("own_backbone.py")


def test_every_example_is_run_here_and_listed() -> None:
    """A new example is one more test, and one more line of the list."""
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {name for name in names if f'run("{name}"' in Path(__file__).read_text()}
    assert names == {name for name in names if f"({name})" in (EXAMPLES / "README.md").read_text()}
