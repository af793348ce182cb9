"""The README's example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from midrib.registry import Registry

_README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's example runs unchanged; its assertions hold."""
    [example] = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    names = {"__name__": "readme"}
    exec(compile(example, str(_README), "exec"), names)  # (our own text)
    assert isinstance(names["BACKBONES"], Registry)
    assert capsys.readouterr().out == f"{_README}:6\n"


def test_the_readme_fits_on_a_page() -> None:
    """A library's README has at most 60 lines."""
    assert len(_README.read_text().splitlines()) <= 60
