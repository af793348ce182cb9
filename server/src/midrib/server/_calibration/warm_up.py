"""Warm-up before a backbone serves: batches of every bucket, so that no caller waits for the first one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.buckets import elements, usual_shapes


def usual_batches(forward: Forward, limits: BatchLimits) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield numbers of rows and their shape: one row of every bucket, then two, four ... up to the limits."""
    shapes = list(usual_shapes(forward.spec))
    rows = 1
    while True:
        fitting = [shape for shape in shapes if rows == 1 or rows * elements(shape) <= limits.max_cost]
        yield from ((rows, shape) for shape in fitting)
        if rows >= limits.max_rows or not fitting:
            return
        rows = min(2 * rows, limits.max_rows)


def warm_up(forward: Forward, limits: BatchLimits, seconds: float) -> int:
    """Run the usual batches, the smaller ones first, for at most `seconds`; return the number of batches.

    With CUDA graphs, all of them are run and captured: other batches are launched kernel by kernel.
    Raises the errors of the module.
    """
    ran, end = 0, time.monotonic() + seconds
    for rows, shape in usual_batches(forward, limits):
        if time.monotonic() >= end and forward.graphs is None:
            break
        example = example_rows(forward.spec, rows, shape)
        forward([(example,)])
        if forward.graphs is not None:
            floating = None if example.dtype.kind in "iu" else forward.dtype
            forward.graphs.capture(torch.from_numpy(example).to(forward.torch_device, floating))
        ran += 1
    return ran
