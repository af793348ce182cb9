"""Every backbone whose weights are installed: remote equals local, also for split and concurrent calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from midrib.backbones import Backbone, load_backbone
from midrib.remote import RemoteBackbone
from midrib.remote.testing import RunningServer, serving
from midrib.server._compute.examples import example_rows

# Of the largest feature, in float32: kernels may sum in another order for another batch size.
BOUND = 1e-4
ARGUMENTS: dict[str, dict[str, Any]] = {
    "template/classification/mlp-128": {"num_features": 8},
    "template/classification/mlp-128-256": {"num_features": 8},
    "image/classification/efficientnet-lite0": {},
    "text/embedding/all-minilm-l6-v2": {},
    "text/embedding/wordllama-256": {},
}


@pytest.fixture(scope="module", params=ARGUMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def local(name: str) -> Backbone:
    torch.manual_seed(0)  # the perceptrons' weights are random
    return load_backbone(name, **ARGUMENTS[name])


@pytest.fixture(scope="module")
def server(name: str) -> Iterator[RunningServer]:
    torch.manual_seed(0)
    with serving({"name": name, "arguments": ARGUMENTS[name]}, warm_up_s=0.0) as running:
        yield running


@pytest.fixture(scope="module")
def rows(local: Backbone) -> Tensor:
    return torch.from_numpy(example_rows(local.input, 12))


@pytest.fixture(scope="module")
def want(local: Backbone, rows: Tensor) -> Tensor:
    return local.embed(rows).float()


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=BOUND * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12], ids=["whole", "two", "single-rows"])
def test_any_split_gives_the_same_rows(
    server: RunningServer, name: str, rows: Tensor, want: Tensor, sizes: list[int]
) -> None:
    """The rows are equal in one call and in many."""
    remote = RemoteBackbone(server.url(name), timeout=60.0)
    same(torch.cat([remote(part) for part in torch.split(rows, sizes)]), want)


def test_any_neighbours_leave_a_row_as_it_is(server: RunningServer, name: str, rows: Tensor, want: Tensor) -> None:
    """Calls of several threads travel, and are computed, together."""
    remote = RemoteBackbone(server.url(name), timeout=60.0)
    got: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: remote(rows[i : i + 1])})) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(torch.cat([got[index] for index in range(len(rows))]), want)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 4e-3), ("bfloat16", 4e-2), ("int8", 1 / 254 + 1e-4)])
def test_a_smaller_wire_type_stays_within_its_bound(
    server: RunningServer, name: str, rows: Tensor, want: Tensor, dtype: str, bound: float
) -> None:
    """The bound is a share of each row's largest feature."""
    got = RemoteBackbone(server.url(name), dtype=dtype, timeout=60.0)(rows).float()
    assert bool(((got - want).abs() <= bound * want.abs().amax(1, keepdim=True)).all())
