"""A whole server on two GPUs: every step of a load, and every call, as on some that are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote import Client
from midrib.server.testing import serving
from midrib.wire import Array

REGISTRY = Registry("for GPUs")
BATCHES = [np.random.default_rng(seed).standard_normal((37, 8), dtype=np.float32) for seed in range(20)]


@REGISTRY(name="small", namespace="test/embedding", input=TensorInput((8,)))
def load_small() -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), 4


def embedded(device: str, dtype: str, *, graphs: bool = False) -> tuple[Array, str]:
    """A server's features for all batches, and the device that it reports."""
    with (
        serving("small", registry=REGISTRY, device=device, dtype=dtype, cuda_graphs=graphs, replicas=2) as server,
        Client(server.address) as client,
    ):
        features = np.stack(list(client.embed_stream("small", BATCHES)))
        return features.astype(np.float32), client.describe("small").device


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("bfloat16", 0.05)])
@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "replayed"])
def test_a_backbone_is_on_every_gpu(monkeypatch: pytest.MonkeyPatch, dtype: str, bound: float, graphs: bool) -> None:
    """Two replicas on each, warm and proved; the rows are those of a CPU, whichever computed them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    expected, _ = embedded("cpu", dtype)
    got, devices = embedded("cuda", dtype, graphs=graphs)
    assert devices == "cuda:0, cuda:1"
    np.testing.assert_allclose(got, expected, atol=bound)
