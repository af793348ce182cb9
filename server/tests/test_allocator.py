"""What is set of the allocator, and what is left as it is."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from midrib.server._allocator import keep_freed_memory

MIB = 2**20
KEPT_AND_GIVEN_BACK = """
from pathlib import Path
import numpy as np
from midrib.server._allocator import give_memory_back, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
arrays = [np.ones(2**20, np.uint8) for _ in range(100)]
last = np.ones(2**20, np.uint8)  # above them, so that the heap cannot shrink by itself
del arrays
kept = resident()
give_memory_back()
print(kept - resident())
"""


@pytest.mark.parametrize(
    ("environment", "parameters"),
    [
        pytest.param({}, [-3, -1], id="both thresholds"),
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "4096"}, [-3], id="not what its user has set"),
    ],
)
def test_freed_memory_is_kept(environment: dict[str, str], parameters: list[int]) -> None:
    """Nothing is set twice, and a variable of glibc's wins."""
    calls: list[tuple[int, int]] = []
    keep_freed_memory(environment, lambda *call: calls.append(call) or 1)  # type: ignore[func-returns-value] # append
    assert [parameter for parameter, _ in calls] == parameters


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's alone")
def test_what_is_free_is_given_back_when_asked() -> None:
    """In the middle of the heap as well."""
    done = subprocess.run([sys.executable, "-c", KEPT_AND_GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * MIB
