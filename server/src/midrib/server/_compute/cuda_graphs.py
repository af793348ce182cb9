"""CUDA graphs of a module: one launch a batch in place of one a kernel, for the batches that were captured."""

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
    """inputs: what a replay reads.  rows: what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    rows: Tensor


class Graphs:
    """The captured batches of one module, by the shape of a row and then by their number.

    Between two captured numbers the larger one runs, with rows of zeros that nobody sees.
    """

    def __init__(self, module: Callable[[Tensor], Tensor]) -> None:
        self._module = module
        self._captured: dict[tuple[int, ...], dict[int, _Graph]] = defaultdict(dict)
        self._pool: Any = None  # torch's own handle, once there is one

    def capture(self, example: Tensor) -> None:
        """Capture the module for batches like this one; on a GPU, before anything is served."""
        with torch.inference_mode():
            inputs, graph = example.clone(), torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(inputs.device)  # type: ignore[no-untyped-call] # torch does not type it
            stream.wait_stream(torch.cuda.current_stream(inputs.device))
            with torch.cuda.stream(stream):  # lazy initialisations must not be captured
                for _ in range(_WARM_UPS):
                    self._module(inputs)
            stream.synchronize()
            # Of this thread only: other replicas go on meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                rows = self._module(inputs)
        self._pool = graph.pool()
        self._captured[tuple(inputs.shape[1:])][len(inputs)] = _Graph(graph, inputs, rows)

    def replay(self, inputs: Tensor) -> Tensor | None:
        """The rows, by a graph; None where no captured one is large enough. On the current stream."""
        known = self._captured.get(tuple(inputs.shape[1:]), {})
        rows = min((count for count in known if count >= len(inputs)), default=None)
        if rows is None:
            return None
        captured = known[rows]
        captured.inputs[: len(inputs)].copy_(inputs)
        captured.inputs[len(inputs) :].zero_()
        captured.graph.replay()
        return captured.rows[: len(inputs)].clone()
