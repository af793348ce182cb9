"""The embedding of a row does not depend on the rows beside it: within a bound, or exactly if the server is strict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from midrib.backbones import BACKBONES, Backbone, load_backbone
from midrib.registry import TextInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._compute.parallel_passes import ParallelPasses
from midrib.wire import Array

# Of the largest feature: the same bound as the parity self-test's for float32.
BOUND = 1e-4
# Every backbone whose weights come from the package index, and one of each architecture whose weights do not.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "template/classification/mlp-128": {"num_features": 8},
    "template/classification/mlp-128-256": {"num_features": 8},
    "image/classification/efficientnet-lite0": {},
    "image/classification/efficientnet-lite1": {},
    "image/classification/efficientnet-lite2": {},
    "image/classification/dino_vits16": {"pretrained": False},
    "text/embedding/all-minilm-l6-v2": {},
    "text/embedding/wordllama-256": {},
    "audio/embedding/resemblyzer": {},
    "audio/embedding/whisper-tiny": {"pretrained": False},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads would be slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ARGUMENTS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    missing = BACKBONES.describe(request.param).missing
    if missing:
        pytest.skip(f"{request.param} needs {', '.join(missing)}, not installed here")
    return load_backbone(request.param, **ARGUMENTS[request.param])


@pytest.fixture()
def company(backbone: Backbone) -> list[Array]:
    """One row, then rows that share its batch; of texts these are longer, so that the first one is padded."""
    rows = example_rows(backbone.input, 4)
    lone = rows[:1, :5] if isinstance(backbone.input, TextInput) else rows[:1]
    return [lone, rows[1:]]


def embed(backbone: Backbone, items: list[Array], *, strict: bool) -> Array:
    """Return the row of the first item, [1, num_features]."""
    forward = Forward(backbone.module, backbone.input, ComputeConfig(strict=strict))
    return forward([(item,) for item in items])[0]


def test_neighbours_change_a_row_within_the_bound(backbone: Backbone, company: list[Array]) -> None:
    """Kernels may sum in another order for another batch size."""
    lone = embed(backbone, company[:1], strict=False)
    beside = embed(backbone, company, strict=False)
    assert np.abs(lone - beside).max() <= BOUND * np.abs(lone).max()


def test_strict_makes_it_exact(backbone: Backbone, company: list[Array]) -> None:
    """Bit for bit, with and without padding and other rows."""
    lone = embed(backbone, company[:1], strict=True)
    beside = embed(backbone, company, strict=True)
    np.testing.assert_array_equal(lone, beside)


def test_parallel_passes_change_no_row(backbone: Backbone) -> None:
    """Several threads run the module at the same time."""
    rows = example_rows(backbone.input, 4)
    forward = Forward(backbone.module, backbone.input)
    lone = np.concatenate([forward([(rows[index : index + 1],)])[0] for index in range(4)])
    assert isinstance(forward.device, CpuDevice)
    forward.device.parallel_passes = ParallelPasses(4, 1)
    several = [forward([(rows,)])[0] for _ in range(2)]
    assert np.abs(np.stack(several) - lone).max() <= BOUND * np.abs(lone).max()
