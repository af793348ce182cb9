"""The compute plan of a backbone on a CPU: threads, parallel passes and micro-batches, by measurement."""

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
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.buckets import elements

# Threads are chosen by a single row and by a batch of this many rows, or of fewer rows that take this long. (With half
# the time, MiniLM got one thread or two by chance.)
_BATCH_ROWS = 16
_BATCH_S = 0.2


@dataclass(frozen=True)
class ComputePlan:
    """How a backbone computes on a CPU.

    threads: intra-op threads of a single pass.  width: passes that run in parallel if a batch has enough rows.
    micro_batch_elements: the most elements of a pass; None if whole batches, or equal shares of them, are as fast.
    """

    threads: int
    width: int = 1
    micro_batch_elements: int | None = None

    def __str__(self) -> str:
        beside = f", or {self.width} passes side by side" if self.width > 1 else ""
        most = f", of at most {self.micro_batch_elements:,} elements" if self.micro_batch_elements else ""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''} a pass{beside}{most}"


def choose_threads(forward: Forward, counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> int:
    """Set the intra-op threads of this thread to the fastest of the counts, and return it."""
    lone = _pass(forward, 1)
    lone()  # the first pass also initialises: it is not measured
    if len(counts) == 1:
        torch.set_num_threads(counts[0])
        return counts[0]
    rows = _batch_rows(medians.seconds(lone, clock))
    return tune([lone, _pass(forward, rows)] if rows > 1 else [lone], counts, clock=clock)


def choose_width(forward: Forward, device: CpuDevice, threads: int, seconds: float) -> int:
    """Return how many parallel passes compute a batch fastest, and let the device use them.

    threads: of all passes together.  seconds: the time to measure in; if it is too short, the result is 1.
    """
    widths = up_to(threads)
    if len(widths) == 1:
        return 1
    lone_s = medians.seconds(_pass(forward, 1))
    rows = max(threads, _batch_rows(lone_s))
    if rows * lone_s > seconds:
        return 1
    passes = {width: parallel_passes_for(width, threads) for width in widths}
    batch = _pass(forward, rows)

    def work(width: int) -> None:
        device.parallel_passes = passes[width]
        batch()

    chosen = tune_width(work, widths, seconds=seconds)
    device.parallel_passes = passes[chosen]
    return chosen


def parallel_passes_for(width: int, threads: int) -> ParallelPasses | None:
    """Return the pool for `width` parallel passes that share the threads; None for a single pass."""
    return ParallelPasses(width, threads // width) if width > 1 else None


def choose_micro_batch(forward: Forward, width: int, limits: BatchLimits, seconds: float) -> int | None:
    """Return the number of elements per pass that is fastest with `width` parallel passes; None for whole batches.

    Elements rather than rows: a micro-batch holds more texts if they are shorter.  seconds: the time to measure in.
    """
    row_elements = elements(example_rows(forward.spec, 1).shape)
    most = -(-limits.rows_of(row_elements) // width)
    rows = micro_batch.tune_rows(lambda rows: _pass(forward, rows * width)(), most, seconds=seconds)
    return None if rows == most else rows * row_elements


def _batch_rows(lone_s: float) -> int:
    """Return the number of rows to measure a batch with, if a single row takes `lone_s` seconds."""
    return min(_BATCH_ROWS, int(_BATCH_S / lone_s))


def _pass(forward: Forward, rows: int) -> Callable[[], object]:
    """A pass of so many rows, which are alike: they take as long, and no memory."""
    row = example_rows(forward.spec, 1)
    return partial(forward, [(np.broadcast_to(row, (rows, *row.shape[1:])),)])
