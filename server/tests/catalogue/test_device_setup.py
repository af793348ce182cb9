"""The steps of a replica before it serves: warm up each bucket, compare rows with the module's."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import Backbone
from midrib.registry import InputSpec, Registry, TensorInput, TextInput
from midrib.server._calibration.parity import PARITY_BOUND, ParityError, parity_reference
from midrib.server._calibration.warm_up import usual_batches, warm_up
from midrib.server._catalogue.device_setup import CalibratedForward, DeviceSetup, WarmUpConfig
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server.testing import serving

PAIR = TensorInput((2,))
LIMITS = BatchLimits(max_rows=6, max_cost=64, max_queue_items=10, max_queue_cost=1000)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Fragile(nn.Module):
    """Returns its rows until it is broken."""

    broken = False

    def forward(self, rows: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("this module is broken")
        return rows + 0


def setup(module: nn.Module, spec: InputSpec = PAIR, **config: Any) -> DeviceSetup:
    backbone = Backbone("test/embedding/one", module.eval(), 2, spec)
    warm_up_config = WarmUpConfig(LIMITS, math.inf, [1])
    return DeviceSetup(
        backbone, module, ComputeConfig(**config), parity_reference(backbone), warm_up_config, tf32=False
    )


class Seen(nn.Module):
    """Notes the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.shapes.append(tuple(rows.shape))
        return rows[:, :2].float()


def test_every_bucket_is_warmed_within_the_limits() -> None:
    """Texts of up to 40 tokens come in buckets of 16, 32 and 40; four rows of 16 are the budget."""
    module = Seen()
    ran = warm_up(Forward(module, TextInput(40)), LIMITS, math.inf)
    assert module.shapes == [(1, 16), (1, 32), (1, 40), (2, 16), (2, 32), (4, 16)]
    assert ran == len(module.shapes)


def test_rows_of_one_shape_are_warmed_up_to_the_largest_batch() -> None:
    """Powers of two, and the limit."""
    forward = Forward(Seen(), TensorInput((2,)))
    assert [rows for rows, _ in usual_batches(forward, LIMITS)] == [1, 2, 4, 6]


def test_warming_up_has_its_time() -> None:
    """With 0 seconds nothing is warmed up, and the server is ready at once."""
    assert warm_up(Forward(Seen(), TensorInput((2,))), LIMITS, 0.0) == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_compute_type_is_proved_within_its_own_bound(dtype: str) -> None:
    """A network of a few layers stays within it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 2))
    assert setup(network, dtype=dtype).prepare().depth == 2
    assert PARITY_BOUND["float64"] <= PARITY_BOUND["float32"] < PARITY_BOUND["float16"] < PARITY_BOUND["bfloat16"]


class Centred(nn.Module):
    """A row depends on its neighbours, which a backbone's must not."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(dim=0) * (len(rows) > 1)


class Padded(nn.Module):
    """Padding changes a text's row, which it must not."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([ids.sum(1), torch.full_like(ids[:, 0], ids.shape[1])], dim=1).float()


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        pytest.param(Centred(), TensorInput((2,)), id="neighbours"),
        pytest.param(Padded(), TextInput(40), id="padding"),
    ],
)
def test_a_module_whose_rows_depend_on_their_company_is_not_served(module: nn.Module, spec: InputSpec) -> None:
    """Alone and in a batch of the engine it has to give the same rows."""
    with pytest.raises(ParityError, match=r"differs from its own module by .* at most 1e-04 is allowed"):
        setup(module, spec).prepare()


def test_strict_makes_such_a_module_servable() -> None:
    """Every row is computed alone, so no other row can change it."""
    assert setup(Centred(), strict=True).prepare().depth == 2


def test_a_drifting_backbone_does_not_come_up() -> None:
    """A server that is to serve it says why, and serves nothing else in its place."""
    registry = Registry("drifting")
    registry(lambda: (Centred(), 2), name="centred", namespace="test/embedding", input=TensorInput((2,)))
    with (
        pytest.raises(ParityError, match="'test/embedding/centred' in float32 differs"),
        serving("centred", registry=registry),
    ):
        pytest.fail("it serves")


def test_a_compiled_module_gives_the_rows_of_the_plain_one() -> None:
    """With a backend that needs no compiler; any batch size, strict too."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    rows = [(np.random.default_rng(0).standard_normal((count, 2), dtype=np.float32),) for count in (1, 3, 5)]
    plain, compiled = Forward(network, TensorInput((2,))), Forward(
        network, TensorInput((2,)), ComputeConfig(compile="eager")
    )
    for expected, got in zip(plain(rows), compiled(rows), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_compile_backend_that_does_not_exist_is_said() -> None:
    """The load fails, and the error names the backends that exist."""
    with pytest.raises(Exception, match="(?i)invalid backend.*nonsense"):
        setup(nn.Linear(2, 2), compile="nonsense").prepare()


def test_replicas_of_one_device_share_the_weights(test_registry: Registry) -> None:
    """Two threads compute by one setup, which holds the module."""
    with serving({"name": "linear", "replicas": 2}, registry=test_registry) as running:
        loaded = running.server.catalogue.entry("linear").ready()
        assert (loaded.served.replicas, len(loaded.plans)) == (2, 1)


def test_a_module_that_is_loaded_again_is_freed_when_it_has_broken_too() -> None:
    """Otherwise its weights would stay in memory beside those of its successor."""
    device_setup = setup(Fragile())
    device_setup.reload = Fragile
    freed: list[bool] = []
    for _ in range(2):
        compute = device_setup.prepare()
        module = device_setup.module
        assert isinstance(module, Fragile)
        assert isinstance(compute, CalibratedForward)
        module.broken = True
        weakref.finalize(module, freed.append, True)
        with pytest.raises(RuntimeError, match="this module is broken"):
            compute.probe()
    del compute, module
    device_setup.prepare()
    assert freed == [True]
