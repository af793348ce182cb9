"""Threads that compute the micro-batches of a batch in parallel.

(Two threads within a pass wait for each other after every operation, and both for whichever is disturbed; two passes do
not. On two cores sixteen images take 0.8 of the time, by ViT-Tiny and by EfficientNet-Lite0.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import torch
from torch import Tensor


class ParallelPasses:
    """width: how many pieces it computes at a time.  threads: intra-op, of each.

    Its threads end when nobody refers to it any more.
    """

    def __init__(self, width: int, threads: int) -> None:
        self.width = width
        self._pool = ThreadPoolExecutor(width, "crew", torch.set_num_threads, (threads,))

    def run(self, works: Iterable[Callable[[], Tensor]]) -> list[Tensor]:
        """What each returns, in order. Where one raises, so does this, once none of them reads its inputs any more."""
        futures = [self._pool.submit(work) for work in works]
        wait(futures)
        return [future.result() for future in futures]
