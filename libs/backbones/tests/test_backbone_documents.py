"""The documents agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import midrib.backbones
from midrib.backbones import BACKBONES
from midrib.backbones._table import with_table

ROOT = Path(__file__).resolve().parents[3]
GUIDE = ROOT / "docs/backbones.md"
README = ROOT / "libs/backbones/README.md"


@pytest.mark.parametrize("document", [GUIDE, README], ids=["guide", "readme"])
def test_every_snippet_runs(document: Path) -> None:
    """The snippets run in order, in one session, as a reader would type them."""
    snippets = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "guide"}
    with BACKBONES.temporary():
        exec(compile("\n".join(snippets), str(document), "exec"), names)  # (our own text)
    assert snippets
    assert names.keys() > {"__name__"}


def test_the_table_is_current() -> None:
    """The table is made from the registry: run `python -m midrib.backbones._table docs/backbones.md` after a change."""
    assert with_table(GUIDE.read_text()) == GUIDE.read_text()


def test_the_public_names_are_exactly_these() -> None:
    """Adding a public name needs a change here."""
    assert sorted(midrib.backbones.__all__) == [
        "BACKBONES",
        "Backbone",
        "InputKindError",
        "MediaError",
        "Prompts",
        "Tokenizer",
        "Tokens",
        "WeightsError",
        "keep_freed_memory",
        "load_backbone",
        "release_freed_memory",
        "return_freed_memory",
    ]


def test_the_readme_is_short() -> None:
    """The README has at most 60 lines."""
    assert len(README.read_text().splitlines()) <= 60
