"""A worker's shared memory is page-locked for a GPU, which copies from it without another copy (with stand-ins)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import TensorInput
from midrib.server._catalogue.worker_entry import _ForwardPasses
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.forward import Forward
from midrib.server._compute.page_locks import PageLocks
from midrib.server._worker.shared_buffer import SharedBuffer, new_shared_buffer


class Runtime:
    """A stand-in for CUDA's runtime. locked: the sizes of locked memory, by address. status: of the next calls."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.calls = 0
        self.status = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802 - CUDA's name
        self.calls += 1
        if not self.status:
            self.locked[address] = size
        return self.status

    def cudaHostUnregister(self, address: int) -> None:  # noqa: N802 - CUDA's name
        del self.locked[address]


@pytest.fixture()
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    stand_in = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: stand_in)
    return stand_in


@pytest.fixture()
def shared() -> SharedBuffer:
    buffer = new_shared_buffer()
    buffer.grow(1 << 16)
    return buffer


def test_a_mapping_is_locked_once_and_unlocked_before_it_is_unmapped(runtime: Runtime, shared: SharedBuffer) -> None:
    """All arrays of a buffer are views of one mapping."""
    locks = PageLocks()
    first, second = shared.view(0, "float32", (4, 4)), shared.view(0, "float32", (2, 2))
    assert (locks.lock(first), locks.lock(second), runtime.calls) == (True, True, 1)
    ((address, size),) = runtime.locked.items()
    assert address <= second.__array_interface__["data"][0] < address + size
    shared.view(0, "uint8", (1 << 16,))  # maps more
    del first, second
    assert runtime.locked == {}


def test_a_refusal_is_logged_and_remembered(
    runtime: Runtime, shared: SharedBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as that of a limit on locked memory: batches are then copied to memory of torch."""
    runtime.status = 2
    locks, rows = PageLocks(), shared.view(0, "float32", (4, 4))
    assert (locks.lock(rows), locks.lock(rows), runtime.calls) == (False, False, 1)
    assert "cannot be page-locked (CUDA error 2)" in caplog.text


@pytest.mark.usefixtures("watch")
@pytest.mark.parametrize("status", [0, 2], ids=["locked", "refused"])
@pytest.mark.parametrize("strict", [False, True], ids=["batched", "strict"])
def test_a_worker_computes_from_shared_memory_on_a_gpu(
    runtime: Runtime, shared: SharedBuffer, status: int, *, strict: bool
) -> None:
    """The same rows, also without locked memory."""
    runtime.status = status
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    passes = _ForwardPasses(Forward(module, TensorInput((4,)), ComputeConfig("cuda", strict=strict)))
    rows = shared.view(0, "float32", (5, 4))
    rows[...] = np.arange(20).reshape(5, 4)
    bound = passes.bind((rows,))
    expected = module(torch.from_numpy(rows)).detach().numpy()
    for _ in range(2):
        np.testing.assert_allclose(bound.launch().rows(), expected, atol=1e-5)
    assert runtime.calls == int(not strict)
