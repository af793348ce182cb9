"""Memory that is kept for forward passes is given back where none needs it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MIB = 2**20
KEPT_AND_GIVEN_BACK = """
from pathlib import Path
import numpy as np
from midrib.backbones import keep_freed_memory
from midrib.server._catalogue.memory import give_memory_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
arrays = [np.ones(2**20, np.uint8) for _ in range(100)]
last = np.ones(2**20, np.uint8)  # above them, so that the heap cannot shrink until memory is returned
del arrays
kept = resident()
give_memory_back()
print(kept - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's alone")
def test_what_is_free_is_given_back_when_asked() -> None:
    """In the middle of the heap as well."""
    done = subprocess.run([sys.executable, "-c", KEPT_AND_GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * MIB
