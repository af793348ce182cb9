"""The thread counts to choose from on this machine.

The wrong count costs a small model up to 500 times: its OpenMP threads spin against each other.
"""

from __future__ import annotations

import os


def thread_counts(replicas: int = 1) -> list[int]:
    """Return the counts to try for each of the replicas that share the cores: powers of two, and all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return powers_up_to(max(1, cores // replicas))


def powers_up_to(most: int) -> list[int]:
    """Return the powers of two below `most`, and `most`."""
    return [*(count for count in (1, 2, 4, 8, 16, 32) if count < most), most]
