"""Settings of the allocator that keep freed memory, and releasing it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from midrib.backbones import keep_freed_memory

MIB = 2**20
RELEASED = """
from pathlib import Path
import numpy as np
from midrib.backbones import keep_freed_memory, release_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
arrays = [np.ones(2**20, np.uint8) for _ in range(100)]
last = np.ones(2**20, np.uint8)  # above them, so that the heap cannot shrink
del arrays
kept = resident()
release_freed_memory()
print(kept - resident())
"""
RETURNED = """
from pathlib import Path
import numpy as np
from midrib.backbones import keep_freed_memory, return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
return_freed_memory()
before = resident()
arrays = [np.ones(2**20, np.uint8) for _ in range(100)]
last = np.ones(2**10, np.uint8)
del arrays
print(resident() - before)
"""
PAGES_OF_PASSES = """
import resource
import torch
from midrib.backbones import keep_freed_memory

def large_tensors():
    for _ in range(5):
        torch.ones(10 << 20)  # 40 MiB

def pages_of_a_pass():
    large_tensors()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large_tensors()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = pages_of_a_pass()
keep_freed_memory()
print(by_default, pages_of_a_pass())
"""


@pytest.mark.parametrize(
    ("environment", "parameters"),
    [
        pytest.param({}, [-3, -1], id="both thresholds"),
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "4096"}, [-3], id="not what its user has set"),
    ],
)
def test_freed_memory_is_kept(environment: dict[str, str], parameters: list[int]) -> None:
    """Both thresholds are set, except one that a variable of glibc has set."""
    calls: list[tuple[int, int]] = []
    keep_freed_memory(environment, lambda *call: calls.append(call) or 1)  # type: ignore[func-returns-value] # append
    assert [parameter for parameter, _ in calls] == parameters


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_the_next_pass_finds_its_memory() -> None:
    """By default glibc returns large tensors to the kernel, so each pass needs new pages."""
    done = subprocess.run([sys.executable, "-c", PAGES_OF_PASSES], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert kept * 100 < by_default


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_returned_at_once_on_demand() -> None:
    """Also after it was kept: a hundred arrays of 1 MiB in the middle of the heap."""
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * MIB


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_is_released() -> None:
    """In the middle of the heap as well: nearly all of a hundred arrays of 1 MiB."""
    done = subprocess.run([sys.executable, "-c", RELEASED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * MIB
