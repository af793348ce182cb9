"""Three streams of a GPU work at the same time, each on another batch, and never on the same memory in no order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from midrib.backbones._pixels.normalize import normalized
from midrib.registry import ImageInput, TensorInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.forward import Forward
from midrib.wire import Array

SPEC = TensorInput((4,))
LAUNCHED = ComputeConfig("cuda")
MODES = pytest.mark.parametrize(
    "config",
    [LAUNCHED, ComputeConfig("cuda", graphs=True), ComputeConfig("cuda", strict=True)],
    ids=["launched", "replayed", "one by one"],
)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def on_a_gpu(config: ComputeConfig = LAUNCHED) -> Forward:
    forward = Forward(module(), SPEC, config)
    if forward.graphs is not None:
        forward.graphs.capture(torch.zeros(8, 4))
    return forward


def batches(count: int) -> list[Array]:
    return [np.random.default_rng(seed).standard_normal((5, 4), dtype=np.float32) for seed in range(count)]


def in_flight(forward: Forward, watch: Any, inputs: list[Array], *more: Array) -> list[Array]:
    """Return the rows of all batches, three at a time through the same buffers, as the host reads them."""
    read: list[Array] = []
    running: list[Any] = []
    for batch in [*inputs, *[None] * forward.depth]:
        if len(running) == forward.depth or (batch is None and running):
            (rows,) = running.pop(0).finish()
            watch.host_touches(rows.__array_interface__["data"][0], writes=False)
            read.append(rows)
        if batch is not None:
            running.append(forward.stage([(batch, *more)]).launch())
    return read


@MODES
def test_uses_of_the_same_memory_are_ordered(watch: Any, config: ComputeConfig) -> None:
    """While one batch is copied in, another computes and a third is copied out; the rows are those of a CPU."""
    expected = Forward(module(), SPEC)
    rows = in_flight(on_a_gpu(config), watch, batches(9))
    np.testing.assert_allclose(rows, [expected([(batch,)])[0] for batch in batches(9)], atol=1e-6)


@MODES
@pytest.mark.parametrize("more", [(), (np.ones((5, 3), np.float32),)], ids=["features", "gradients"])
def test_memory_is_not_handed_out_while_another_stream_uses_it(
    watch: Any, more: tuple[Array, ...], config: ComputeConfig
) -> None:
    """The allocator knows the stream that allocated it; the others are recorded."""
    in_flight(on_a_gpu(config), watch, batches(9), *more)
    assert watch.unrecorded() == []


@MODES
def test_pixels_are_normalised_on_the_stream_that_computes(watch: Any, config: ComputeConfig) -> None:
    """They are copied as bytes; batches of floats run between them, through the same graphs."""
    spec = ImageInput(2)
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    forward = Forward(layers, spec, config)
    if forward.graphs is not None:
        forward.graphs.capture(torch.zeros(8, 3, 2, 2))
    pixels = [np.random.default_rng(seed).integers(0, 256, (5, 3, 2, 2), dtype=np.uint8) for seed in range(6)]
    floats = [normalized(torch.from_numpy(rows), spec).numpy() for rows in pixels]
    rows = in_flight(forward, watch, [batch for pair in zip(pixels, floats, strict=True) for batch in pair])
    np.testing.assert_array_equal(rows[::2], rows[1::2])
    np.testing.assert_allclose(rows[::2], [layers(torch.from_numpy(batch)).detach() for batch in floats], atol=1e-6)
    assert watch.unrecorded() == []


def test_streams_that_do_not_wait_are_seen(watch: Any) -> None:
    """The check finds a missing wait, so that its passing means something."""
    watch.streams_wait = False
    with pytest.raises(AssertionError, match="no order"):
        in_flight(on_a_gpu(), watch, batches(9))
