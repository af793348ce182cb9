"""Every Python example of a README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", "server/README.md", "libs/wire/README.md"]
EXAMPLES = [
    pytest.param(code, id=f"{readme}-{number}")
    for readme in READMES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL), 1)
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(code: str) -> None:
    """As a reader would paste it."""
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
