"""CUDA graphs of a module: one launch per batch instead of one per kernel, for the batches that were captured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 3


@dataclass(frozen=True)
class _Graph:
    """A captured batch. inputs: [rows, ...], read by a replay.  rows: [rows, num_features], written by it."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    rows: Tensor


class Graphs:
    """The captured batches of one module, by the shape of a row and then by the number of rows.

    A batch of any other number of rows runs as the next larger one, padded with rows of zeros.
    """

    def __init__(self, module: Callable[[Tensor], Tensor]) -> None:
        self._module = module
        self._captured: dict[tuple[int, ...], dict[int, _Graph]] = defaultdict(dict)
        self._pool: Any = None  # torch's handle of the memory that all graphs share

    def capture(self, example: Tensor) -> None:
        """Capture the module for batches of this shape, [rows, ...], on its GPU; call it before the first batch."""
        with torch.inference_mode():
            inputs, graph = example.clone(), torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(inputs.device)  # type: ignore[no-untyped-call] # torch does not type it
            stream.wait_stream(torch.cuda.current_stream(inputs.device))
            with torch.cuda.stream(stream):  # lazy initialisations must not be captured
                for _ in range(_WARM_UPS):
                    self._module(inputs)
            stream.synchronize()
            # Only this thread's work is captured: other replicas compute meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                rows = self._module(inputs)
        self._pool = graph.pool()
        self._captured[tuple(inputs.shape[1:])][len(inputs)] = _Graph(graph, inputs, rows)

    def replay(self, inputs: Tensor) -> Tensor | None:
        """Return the rows of a batch, [rows, num_features]; None if no captured batch is large enough.

        inputs: [rows, ...], on the GPU. The graph runs on the current stream.
        """
        graphs = self._captured.get(tuple(inputs.shape[1:]), {})
        rows = min((count for count in graphs if count >= len(inputs)), default=None)
        if rows is None:
            return None
        captured = graphs[rows]
        captured.inputs[: len(inputs)].copy_(inputs)
        captured.inputs[len(inputs) :].zero_()
        captured.graph.replay()
        return captured.rows[: len(inputs)].clone()
