"""A backbone whose rows take 10 ms each, for tests of threads and of worker processes."""

from __future__ import annotations

import time

from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

REGISTRY = Registry("slow_rows")


class SlowRows(nn.Module):
    """Returns its rows after 10 ms for each."""

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(0.01 * len(rows))
        return rows + 0


@REGISTRY(name="slow", namespace="test/embedding", input=TensorInput((2,)))
def load_slow() -> tuple[nn.Module, int]:
    """Return the module and its width."""
    return SlowRows(), 2
