"""The Python examples of docs/protocols.md run with the clients of other projects, against a real server.

Each client is in a separate environment: MIDRIB_EXTERNAL=1 python -m pytest server/tests/test_docs_protocols.py
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from midrib.server.testing import serving

pytestmark = pytest.mark.external

PAGE = Path(__file__).resolve().parents[2] / "docs/protocols.md"


@pytest.mark.parametrize(
    ("library", "requirement"),
    [
        pytest.param("tritonclient", "tritonclient[grpc]==2.73.0", id="tritonclient"),
        pytest.param("openai", "openai==3.54.0", id="openai"),
    ],
)
def test_the_example_of_a_client_runs(library: str, requirement: str, external_python: Callable[[str], Path]) -> None:
    """As a reader would paste it; only the addresses differ."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [code] = [block for block in blocks if f"import {library}" in block]
    python = external_python(requirement)
    with serving("text/embedding/all-minilm-l6-v2", http_port=0) as server:
        code = code.replace("127.0.0.1:50051", server.address)
        code = code.replace("127.0.0.1:8080", str(server.server.http_address))
        subprocess.run([str(python), "-c", code], check=True, timeout=120)
