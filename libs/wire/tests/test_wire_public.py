"""The public names and the imports of midrib.wire."""

from __future__ import annotations

import subprocess
import sys

from midrib import wire


def test_the_public_list_is_sorted_and_whole() -> None:
    """Every listed name exists, and none is listed twice."""
    assert wire.__all__ == sorted(set(wire.__all__))
    assert all(hasattr(wire, name) for name in wire.__all__)


def test_wire_imports_neither_torch_nor_grpc() -> None:
    """Clients without torch use this library."""
    code = "import sys, midrib.wire; print({'torch', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
