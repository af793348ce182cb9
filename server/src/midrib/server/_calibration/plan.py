"""The compute plan of a backbone on a CPU: threads, parallel passes and micro-batches, by measurement.

Each measured batch computes for about a tenth of a second: a longer one is not faster per row, and the load would take
longer. But it has at least one row for each thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from midrib.server._calibration.fastest import fastest, seconds_of
from midrib.server._calibration.threads import powers_up_to
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._compute.parallel_passes import ParallelPasses
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.buckets import elements

Clock = Callable[[], float]

_BATCH_S = 0.1
# The most wall-clock time of a batch, whose size is chosen by processor time: a module may wait, for example for
# another process. Ten times as long, because other work on the machine also slows a batch down.
_LONGEST_BATCH_S = 10 * _BATCH_S
# The thread count is chosen in this time, by passes of a single row, or of a single row and of at most this many rows.
_THREAD_ROWS = 16
_THREAD_SECONDS = 2.0
# More threads must be faster by this share: on a machine that becomes busy they wait for each other, and a pass of two
# took ten times as long as a pass of one.
_MORE_THREADS = 0.25
# Fewer parallel passes must be faster by this share: beside a busy event loop they lose more than parallel ones.
_FEWER_PASSES = 0.25
# Micro-batches must be faster than whole batches by this share: more passes cost more of the interpreter's time.
_MICRO_BATCHES = 0.2
# A pass of some rows takes at least about as long as a single row. Micro-batches that must therefore be slower than the
# whole batch by more than this factor are not measured: a module that always takes a second would need minutes.
_SLOWER = 2.0
# Do not split passes shorter than this: every extra pass competes with the event loop for the interpreter lock.
_SHORT_S = 5e-3


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


def choose_threads(
    forward: Forward, counts: Sequence[int], *, parallel: bool = False, clock: Clock = time.perf_counter
) -> int:
    """Set the intra-op threads of this thread to the fastest of the counts, and return it.

    counts: rising.  parallel: whether batches may be computed by parallel passes, which do not use these threads.
    With parallel passes, only single rows are measured. Otherwise single rows and a batch have the same
    weight: enough single rows are computed to take about as long as the batch. Raises the errors of the module.
    """
    torch.set_num_threads(counts[0])
    _pass(forward, 1)()  # the first pass also initialises: it is not measured
    if len(counts) == 1:
        return counts[0]
    passes = _thread_trial(forward, clock, parallel=parallel)

    def work(count: int) -> None:
        torch.set_num_threads(count)
        for compute in passes:
            compute()

    chosen = fastest(counts, work, margin=_MORE_THREADS, seconds=_THREAD_SECONDS, clock=clock)
    torch.set_num_threads(chosen)
    return chosen


def _thread_trial(forward: Forward, clock: Clock, *, parallel: bool) -> list[Callable[[], object]]:
    """Return the passes by which thread counts are compared, as `choose_threads` says."""
    lone = _pass(forward, 1)
    lone_s = _seconds(lone, clock)
    rows = min(_THREAD_ROWS, max(1, int(_BATCH_S / lone_s)))
    if rows == 1:
        return [lone]
    batch = _pass(forward, rows)
    batch_s = seconds_of(batch, clock)
    singles = [lone] * max(1, min(rows, round(batch_s / lone_s)))
    return singles if parallel and batch_s >= _SHORT_S else [batch, *singles]


@dataclass(frozen=True)
class PassCalibration:
    """Measures how a CPU divides a batch fastest, and sets up the device for that. Raises the errors of the module.

    forward, device: those of one replica.  limits: the limits of a batch.  threads: the number for all passes together.
    seconds: the time for each of the two measurements.
    size_clock: chooses the sizes of batches and passes. By default it counts this thread's processor time, so that
    other work on the machine does not change them.
    """

    forward: Forward
    device: CpuDevice
    limits: BatchLimits
    threads: int
    seconds: float
    clock: Clock = time.perf_counter
    size_clock: Clock = time.thread_time

    @cached_property
    def rows(self) -> int:
        """The rows of a batch of a tenth of a second, at least one for each thread, and at most a second by `clock`.

        A backbone whose rows are slow needs parallel passes most. Within the limits; at least 1.
        """
        most = min(self._allowed_rows, int(_LONGEST_BATCH_S / self._lone_s))
        if most <= 1:
            return 1
        return min(most, max(self.threads, int(_BATCH_S / _seconds(_pass(self.forward, 1), self.size_clock))))

    @property
    def _allowed_rows(self) -> int:
        """The rows that the limits allow in a batch."""
        return self.limits.rows_of(self.row_elements)

    @cached_property
    def _lone_s(self) -> float:
        """The seconds of a pass of one row."""
        return _seconds(_pass(self.forward, 1), self.clock)

    @cached_property
    def row_elements(self) -> int:
        """The elements of a row."""
        return elements(example_rows(self.forward.spec, 1).shape)

    def choose_width(self, lone_threads: int) -> int:
        """Return the number of parallel passes that compute a batch fastest.

        lone_threads: the fastest number for a single row.  Each pass has as many if a row is too slow to measure two.
        """
        widths = [width for width in powers_up_to(self.threads) if width <= self.rows]
        if len(widths) > 1:
            return self._fastest_width(widths)
        width = self.threads // lone_threads if self._allowed_rows > 1 else 1
        self.device.parallel_passes = parallel_passes_for(width, self.threads)
        return width

    def _fastest_width(self, widths: Sequence[int]) -> int:
        batch = _pass(self.forward, self.rows)
        if _seconds(batch, self.size_clock) < _SHORT_S:
            return 1
        passes = {width: parallel_passes_for(width, self.threads) for width in widths}

        def work(width: int) -> None:
            self.device.parallel_passes = passes[width]
            batch()

        chosen = self._fastest(widths[::-1], work, _FEWER_PASSES)
        self.device.parallel_passes = passes[chosen]
        return chosen

    def choose_micro_batch(self, width: int) -> int | None:
        """Return the number of elements per pass that is fastest with `width` parallel passes; None for whole batches.

        Elements rather than rows: a micro-batch holds more texts if they are shorter.
        """
        share = -(-self.rows // width)
        if share == 1:
            return None
        batch = _pass(self.forward, self.rows)
        batch_s = _seconds(batch, self.clock)
        shortest_s = max(_SHORT_S, self._lone_s / _SLOWER)
        sizes = [size for size in powers_up_to(share)[-2::-1] if batch_s * size / share >= shortest_s]

        def work(size: int) -> None:
            self.device.micro_batch_elements = size * self.row_elements
            batch()

        chosen = self._fastest([share, *sizes], work, _MICRO_BATCHES)
        self.device.micro_batch_elements = None if chosen == share else chosen * self.row_elements
        return self.device.micro_batch_elements

    def _fastest(self, candidates: Sequence[int], work: Callable[[int], object], margin: float) -> int:
        return fastest(candidates, work, margin=margin, seconds=self.seconds, clock=self.clock)


def parallel_passes_for(width: int, threads: int) -> ParallelPasses | None:
    """Return the pool for `width` parallel passes that share the threads; None for a single pass."""
    return ParallelPasses(width, threads // width) if width > 1 else None


def _seconds(work: Callable[[], object], clock: Clock) -> float:
    """Return the least seconds of five trials, which other work disturbed least; of one trial if it is long."""
    first = max(1e-9, seconds_of(work, clock))
    return first if first > _BATCH_S else min(first, *(max(1e-9, seconds_of(work, clock)) for _ in range(4)))


def _pass(forward: Forward, rows: int) -> Callable[[], object]:
    """Return a pass of `rows` equal rows: they take as long as any others, and no memory."""
    row = example_rows(forward.spec, 1)
    return partial(forward, [(np.broadcast_to(row, (rows, *row.shape[1:])),)])
