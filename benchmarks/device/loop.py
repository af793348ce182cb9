"""The limit: the module in a hand-written loop in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

Rows = Any  # numpy arrays, of floats or token ids
# One batch is copied in, one computes, one is copied out.
_DEPTH: Final = 3


def in_loop(module: nn.Module, batches: Iterable[Rows], device: torch.device, dtype: torch.dtype) -> Iterator[Rows]:
    """Yield the features of each batch, in order, as float32 on the host.

    module: on the device, in the dtype.  batches: [rows, ...] each.
    """
    results = _on_gpu(module, batches, device, dtype) if device.type == "cuda" else _on_cpu(module, batches, dtype)
    with torch.inference_mode():
        yield from results


def _on_cpu(module: nn.Module, batches: Iterable[Rows], dtype: torch.dtype) -> Iterator[Rows]:
    for batch in batches:
        yield module(_computed(torch.from_numpy(batch), dtype)).float().numpy()


@dataclass
class _Slot:
    """Pinned memory of one batch, which later batches reuse. done: its features are on the host."""

    inputs: Tensor
    features: Tensor | None = None
    done: torch.cuda.Event | None = None


def _on_gpu(module: nn.Module, batches: Iterable[Rows], device: torch.device, dtype: torch.dtype) -> Iterator[Rows]:
    """Overlap copies in, computation and copies out on three streams; wait for the oldest batch only."""
    copying_in, computing, copying_out = (torch.cuda.Stream(device) for _ in range(3))  # type: ignore[no-untyped-call] # torch does not type it
    free: deque[_Slot] = deque()
    running: deque[_Slot] = deque()
    for batch in batches:
        if len(running) == _DEPTH:
            yield _read(running, free)
        entry = free.popleft() if free else _Slot(torch.empty_like(torch.from_numpy(batch), pin_memory=True))
        np.copyto(entry.inputs.numpy(), batch)
        with torch.cuda.stream(copying_in):
            arrived = entry.inputs.to(device, non_blocking=True)
        computing.wait_stream(copying_in)
        with torch.cuda.stream(computing):
            arrived.record_stream(computing)
            features = module(_computed(arrived, dtype)).float()
        copying_out.wait_stream(computing)
        with torch.cuda.stream(copying_out):
            if entry.features is None:
                entry.features = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            entry.features.copy_(features, non_blocking=True)
            features.record_stream(copying_out)
            entry.done = copying_out.record_event()
        running.append(entry)
    while running:
        yield _read(running, free)


def _read(running: deque[_Slot], free: deque[_Slot]) -> Rows:
    entry = running.popleft()
    if entry.done is None or entry.features is None:
        raise RuntimeError("a batch was not started: this is a fault of the benchmark")
    entry.done.synchronize()
    free.append(entry)
    return entry.features.numpy().copy()


def _computed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
