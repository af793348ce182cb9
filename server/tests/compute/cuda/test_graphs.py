"""CUDA graphs: one launch per batch, for the numbers of rows that were captured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.registry import TensorInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.forward import Forward

pytestmark = pytest.mark.usefixtures("watch")


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def capturing(module: nn.Module, *rows: int) -> tuple[Forward, dict[int, Any]]:
    """Return a forward with graphs of these numbers of rows, and the graphs."""
    forward = Forward(module, TensorInput((4,)), ComputeConfig(device="cuda", graphs=True))
    assert forward.graphs is not None
    for count in rows:
        forward.graphs.capture(torch.zeros(count, 4))
    return forward, forward.graphs._captured[4,]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9], ids=lambda rows: f"{rows} rows")
def test_a_graph_gives_the_rows_of_the_module(rows: int) -> None:
    """For as many rows as were captured, for fewer, and if no graph is large enough."""
    batch = np.random.default_rng(rows).standard_normal((rows, 4), dtype=np.float32)
    forward, _ = capturing(module(), 4, 8)
    (computed,) = forward([(batch,)])
    np.testing.assert_allclose(computed, module()(torch.from_numpy(batch)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(("rows", "replays"), [(3, (1, 0)), (4, (1, 0)), (5, (0, 1)), (9, (0, 0))])
def test_the_smallest_graph_that_is_large_enough_runs(rows: int, replays: tuple[int, int]) -> None:
    """There are graphs for four and for eight rows; the module itself runs more."""
    forward, captured = capturing(module(), 8, 4)
    forward([(np.ones((rows, 4), np.float32),)])
    assert (captured[4].graph.replays, captured[8].graph.replays) == replays


class Largest(nn.Module):
    """[rows, 1]: of each row the largest value, and those of the rows before it added."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.amax(dim=1, keepdim=True).cumsum(0)


def test_rows_of_zeros_fill_a_graph_up() -> None:
    """The rows of the batch before, whose values may be anything, do not fill it."""
    forward, captured = capturing(Largest(), 4)
    forward([(np.full((4, 4), 9.0, np.float32),)])
    forward([(np.ones((1, 4), np.float32),)])
    assert captured[4].rows.flatten().tolist() == [1.0, 1.0, 1.0, 1.0]
