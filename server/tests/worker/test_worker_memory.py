"""The memory of a worker between its passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

ROW = (np.full((1, 2), 666.0, np.float32),)


def test_a_worker_keeps_freed_memory_for_its_next_pass(replica_of: Callable[..., Any]) -> None:
    """Otherwise the kernel clears the pages of every large tensor again: a network may take twice as long."""
    replica = replica_of("allocating")
    cleared = [float(rows[0, 0]) for _ in range(5) for rows in replica.run(ROW)]
    assert min(cleared) < 1000  # a small block may lie where the large one was, once
