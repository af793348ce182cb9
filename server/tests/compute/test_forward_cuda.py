"""The same three steps on a GPU: streams, pinned memory, CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.backbones._pixels.normalize import normalized
from midrib.registry import ImageInput, TensorInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import use_tf32
from midrib.server._compute.forward import Forward
from midrib.wire import Array

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SPEC = TensorInput((64,))


@pytest.fixture(autouse=True)
def _no_tf32() -> None:
    use_tf32(allowed=False)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 32))


def batch(seed: int, rows: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 64), dtype=np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_gpu_gives_the_rows_of_a_cpu(dtype: str) -> None:
    """Within the error of the compute dtype."""
    rows = batch(0, 33)
    (expected,) = Forward(module(), SPEC)([(rows,)])
    (computed,) = Forward(module(), SPEC, ComputeConfig(device="cuda", dtype=dtype))([(rows,)])
    np.testing.assert_allclose(computed.astype(np.float32), expected, atol=0.05 if dtype != "float32" else 1e-4)


def test_pixels_have_the_bits_of_a_cpu() -> None:
    """CUDA's division by a number multiplies by its reciprocal, which rounds differently: only tensors divide."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(normalized(pixels.cuda(), ImageInput(16)).cpu(), normalized(pixels, ImageInput(16)))


def test_batches_in_flight_do_not_touch_each_other() -> None:
    """Three at a time through the same buffers: every batch gets its rows."""
    forward = Forward(module(), SPEC, ComputeConfig(device="cuda"))
    batches = [batch(seed, 512) for seed in range(60)]
    expected = Forward(module(), SPEC)
    for start in range(0, 60, 3):
        launched = [forward.stage([(rows,)]).launch() for rows in batches[start : start + 3]]
        for rows, running in zip(batches[start:], launched, strict=False):
            np.testing.assert_allclose(running.finish()[0], expected([(rows,)])[0], atol=1e-4)


def test_rows_outlive_the_batches_after_them() -> None:
    """They are views of memory that nothing else writes to."""
    forward = Forward(module(), SPEC, ComputeConfig(device="cuda"))
    (first,) = forward([(batch(0, 8),)])
    before = first.copy()
    for seed in range(1, 20):
        forward([(batch(seed, 8),)])
    np.testing.assert_array_equal(first, before)


def test_a_captured_graph_gives_the_rows_of_the_module() -> None:
    """Also for fewer rows than were captured, and after a larger batch has used its buffers."""
    plain = Forward(module(), SPEC, ComputeConfig(device="cuda"))
    forward = Forward(module(), SPEC, ComputeConfig(device="cuda", graphs=True))
    assert forward.graphs is not None
    forward.graphs.capture(torch.zeros(8, 64, device="cuda"))
    forward([(batch(1, 8),)])
    (computed,) = forward([(batch(2, 5),)])
    np.testing.assert_allclose(computed, plain([(batch(2, 5),)])[0], atol=1e-5)


def test_a_gpu_computes_gradients() -> None:
    """They equal those of the CPU."""
    rows, grad = batch(0, 4), np.ones((4, 32), np.float32)
    (expected,) = Forward(module(), SPEC)([(rows, grad)])
    (computed,) = Forward(module(), SPEC, ComputeConfig(device="cuda"))([(rows, grad)])
    np.testing.assert_allclose(computed, expected, atol=1e-4)


class Greedy(nn.Module):
    """A device whose memory holds two rows."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 2


def test_rows_that_do_not_fit_are_run_in_halves() -> None:
    """The halves run on the computing stream, as the whole batch would."""
    (computed,) = Forward(Greedy(), SPEC, ComputeConfig(device="cuda"))([(batch(0, 4),)])
    np.testing.assert_array_equal(computed, batch(0, 4) * 2)
