"""torch.func's transforms over a parent with a remote child: each equals the one over the local module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from midrib.registry import Registry, TensorInput
from midrib.remote import RemoteBackbone
from midrib.remote.testing import serving
from midrib.wire import UnsupportedError

pytestmark = pytest.mark.usefixtures("route")
NAME = "test/functional/mlp"
WIDTH, FEATURES = 6, 4


def mlp() -> tuple[nn.Module, int]:
    """Return the same weights at each load."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.Tanh()).eval().requires_grad_(False), FEATURES


class Model(nn.Module):
    """A backbone with a head that gives one number for each row."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        torch.manual_seed(1)
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, 1] for [rows, WIDTH]."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


@pytest.fixture(scope="module")
def remote() -> Iterator[Model]:
    registry = Registry("test")
    registry(mlp, name="mlp", namespace="test/functional", input=TensorInput((WIDTH,)), num_features=FEATURES)
    with serving(NAME, registry=registry) as server:
        yield Model(RemoteBackbone(server.url(NAME)))


X = torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH)


def parameter_gradient(model: Model) -> Any:
    """The head's gradient, by functional_call."""
    parameters = dict(model.head.named_parameters(prefix="head"))
    return grad(lambda values: functional_call(model, values, X).sum())(parameters)["head.weight"]


def per_sample_gradients(model: Model) -> Any:
    """The gradient of each sample's input."""
    return vmap(grad(lambda x: model(x[None]).sum()))(X)


def per_sample_parameter_gradients(model: Model) -> Any:
    """The head's gradient of each sample."""
    parameters = dict(model.head.named_parameters(prefix="head"))
    loss = grad(lambda values, x: functional_call(model, values, x[None]).sum())
    return vmap(loss, in_dims=(None, 0))(parameters, X)["head.weight"]


@pytest.mark.parametrize(
    "transformed",
    [
        pytest.param(lambda model: grad(lambda x: model(x).square().sum())(X), id="grad"),
        pytest.param(lambda model: vjp(model, X)[1](torch.ones(3, 1))[0], id="vjp"),
        pytest.param(lambda model: vmap(model)(X.reshape(3, 1, WIDTH)), id="vmap"),
        pytest.param(lambda model: vmap(model, in_dims=1)(X.reshape(1, 3, WIDTH)), id="vmap-second-dimension"),
        pytest.param(lambda model: vmap(vmap(model))(X.reshape(3, 1, 1, WIDTH)), id="vmap-of-vmap"),
        pytest.param(lambda model: jacrev(model)(X), id="jacrev"),
        pytest.param(parameter_gradient, id="grad-of-the-head"),
        pytest.param(per_sample_gradients, id="per-sample-grad"),
        pytest.param(per_sample_parameter_gradients, id="per-sample-grad-of-the-head"),
    ],
)
def test_a_transform_equals_the_local_one(remote: Model, transformed: Callable[[Model], Tensor]) -> None:
    """Values and shapes are those of the local module."""
    torch.testing.assert_close(transformed(remote), transformed(Model(mlp()[0])), atol=1e-5, rtol=1e-5)


def test_a_batch_of_vmap_is_one_call(remote: Model) -> None:
    """The rows of all batches travel together."""
    backbone = remote.backbone
    assert isinstance(backbone, RemoteBackbone)
    before = backbone.stall
    vmap(backbone)(torch.randn(50, 2, WIDTH))
    assert (backbone.stall - before).items == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_forward_mode_is_refused(remote: Model) -> None:
    """The server computes backward passes only; the error names the alternatives."""
    with pytest.raises(UnsupportedError, match=r"no forward-mode derivative: use torch\.func\.vjp"):
        jvp(remote, (X,), (X,))
