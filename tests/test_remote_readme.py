"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from midrib.server.testing import serving

README = Path(__file__).parents[1] / "libs" / "remote" / "README.md"
NAME = "template/classification/mlp-128"


def test_the_readmes_example_runs() -> None:
    """Only the address of the server differs."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    with serving({"name": NAME, "arguments": {"num_features": 8}}) as server:
        exec(compile(code.replace("localhost:50051", server.address), str(README), "exec"), {})
