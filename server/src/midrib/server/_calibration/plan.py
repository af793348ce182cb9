"""A backbone on a CPU: with how many threads, and how many rows at a time, it computes fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from midrib.server._calibration import medians, micro_batch
from midrib.server._calibration.threads import tune, up_to
from midrib.server._calibration.width import tune_width
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward, example_rows
from midrib.server._compute.parallel_passes import ParallelPasses
from midrib.server._engine.batcher import BatchLimits
from midrib.server._engine.buckets import elements

# The batch that threads are chosen by, beside a lone row: so many rows, or fewer that take so long. (With half as long
# a MiniLM and its nine rows fell to one thread or two by chance.)
_BATCH_ROWS = 16
_BATCH_S = 0.2


@dataclass(frozen=True)
class ComputePlan:
    """How a backbone is computed.

    threads: intra-op, of a pass by itself.  width: passes side by side, where there are rows for so many.
    piece_elements: of a pass, at most; None where whole batches, or equal shares of them, are as fast.
    """

    threads: int
    width: int = 1
    micro_batch_elements: int | None = None

    def __str__(self) -> str:
        beside = f", or {self.width} passes side by side" if self.width > 1 else ""
        most = f", of at most {self.micro_batch_elements:,} elements" if self.micro_batch_elements else ""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''} a pass{beside}{most}"


def choose_threads(forward: Forward, counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> int:
    """Set this thread's intra-op count to that of the counts with which the backbone is fastest, and return it."""
    lone = _pass(forward, 1)
    lone()  # whatever a first one does is no part of a measurement
    if len(counts) == 1:
        torch.set_num_threads(counts[0])
        return counts[0]
    rows = _batch_rows(medians.seconds(lone, clock))
    return tune([lone, _pass(forward, rows)] if rows > 1 else [lone], counts, clock=clock)


def choose_width(forward: Forward, lane: CpuDevice, threads: int, seconds: float) -> int:
    """How many passes side by side compute a batch fastest, with all these threads together; the lane's crew from here.

    seconds: to measure in; where that is too short, there is one pass at a time.
    """
    widths = up_to(threads)
    if len(widths) == 1:
        return 1
    lone_s = medians.seconds(_pass(forward, 1))
    rows = max(threads, _batch_rows(lone_s))
    if rows * lone_s > seconds:
        return 1
    crews = {width: parallel_passes_for(width, threads) for width in widths}
    batch = _pass(forward, rows)

    def work(width: int) -> None:
        lane.parallel_passes = crews[width]
        batch()

    chosen = tune_width(work, widths, seconds=seconds)
    lane.parallel_passes = crews[chosen]
    return chosen


def parallel_passes_for(width: int, threads: int) -> ParallelPasses | None:
    """Who computes so many passes at a time, with all these threads together; nobody else for one."""
    return ParallelPasses(width, threads // width) if width > 1 else None


def choose_micro_batch(forward: Forward, width: int, limits: BatchLimits, seconds: float) -> int | None:
    """How many elements a pass takes fastest, where so many are side by side within a batch's limits; None for all.

    Of elements, not of rows: a piece holds the more texts, the shorter they are.  seconds: to measure in.
    """
    row_elements = elements(example_rows(forward.spec, 1).shape)
    most = -(-limits.rows_of(row_elements) // width)
    rows = micro_batch.tune_rows(lambda rows: _pass(forward, rows * width)(), most, seconds=seconds)
    return None if rows == most else rows * row_elements


def _batch_rows(lone_s: float) -> int:
    """How many rows to measure a batch by, where a lone one takes so long."""
    return min(_BATCH_ROWS, int(_BATCH_S / lone_s))


def _pass(forward: Forward, rows: int) -> Callable[[], object]:
    """A pass of so many rows, which are alike: they take as long, and no memory."""
    row = example_rows(forward.spec, 1)
    return partial(forward, [(np.broadcast_to(row, (rows, *row.shape[1:])),)])
