"""A remote backbone is a child of a module like a local one: each behaviour, over both."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.remote import RemoteBackbone
from midrib.server.testing import RunningServer

NAME = "test/numbers/mlp"
WIDTH = 8
FEATURES = 16
REGISTRY = Registry("test")


@REGISTRY(name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=FEATURES)
def mlp() -> tuple[nn.Module, int]:
    """The same weights wherever it is loaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.Tanh()).eval().requires_grad_(False), FEATURES


class Model(nn.Module):
    """A backbone with a head."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        torch.manual_seed(1)
        self.head = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits


@pytest.fixture(params=["local", "remote"])
def model(request: pytest.FixtureRequest, server: RunningServer) -> Model:
    return Model(mlp()[0] if request.param == "local" else RemoteBackbone(server.url(NAME)))


@pytest.fixture()
def x() -> Tensor:
    return torch.linspace(-1, 1, 4 * WIDTH).reshape(4, WIDTH)


@pytest.fixture()
def expected(x: Tensor) -> Tensor:
    features: Tensor = Model(mlp()[0])(x).detach()
    return features


def same(got: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().float(), expected, atol=bound, rtol=bound)


def test_forward(model: Model, x: Tensor, expected: Tensor) -> None:
    """The parent computes the same."""
    same(model(x), expected)


def test_train_and_eval(model: Model, x: Tensor, expected: Tensor) -> None:
    """The mode spreads to the child and changes nothing of it."""
    for mode in (True, False):
        assert model.train(mode).backbone.training is mode
        same(model(x), expected)


def test_to_and_half(model: Model, x: Tensor, expected: Tensor) -> None:
    """The output follows the input's type when the parent is converted."""
    same(model.to("cpu", torch.bfloat16)(x.bfloat16()), expected, 5e-2)


def test_float16_rows_give_float16_features(model: Model, x: Tensor, expected: Tensor) -> None:
    """The features have the type of the input."""
    same(model.half()(x.half()), expected, 5e-3)


def test_state_dict_round_trip(model: Model, x: Tensor, expected: Tensor) -> None:
    """A parent's state saves and loads strictly."""
    state = model.state_dict()
    assert {"head.weight", "head.bias"} <= set(state)
    assert str(model.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    same(model(x), expected)


def test_only_the_head_trains(model: Model) -> None:
    """A frozen backbone has nothing to train."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["head.weight", "head.bias"]


def test_walking_the_modules(model: Model) -> None:
    """named_modules, children, buffers and apply reach the child."""
    modules: list[nn.Module] = []
    model.apply(modules.append)
    assert model.backbone in modules
    assert dict(model.named_modules())["backbone"] is model.backbone
    assert list(model.backbone.buffers()) == []


def test_requires_grad_and_zero_grad(model: Model, x: Tensor) -> None:
    """Both pass over a child without parameters."""
    model.requires_grad_(False).head.requires_grad_()
    model(x).sum().backward()
    model.zero_grad()
    assert model.head.weight.grad is None


def test_the_child_has_no_parameters_because_the_server_has_them(server: RunningServer) -> None:
    """The remote child alone: no parameters, no buffers, an empty state, which loads strictly."""
    backbone = RemoteBackbone(server.url(NAME))
    assert (list(backbone.parameters()), list(backbone.buffers()), backbone.state_dict()) == ([], [], {})
    assert str(backbone.load_state_dict({}, strict=True)) == "<All keys matched successfully>"
    assert backbone.to("cpu").half().requires_grad_() is backbone


def test_a_parents_repr_names_the_backbone(model: Model) -> None:
    """torch lists it as a child of the module that holds it."""
    assert "(backbone): " in repr(model)


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda model: pickle.loads(pickle.dumps(model)), id="pickle"),
        pytest.param(lambda model: _saved(model), id="torch-save"),
    ],
)
def test_copies_work(model: Model, x: Tensor, expected: Tensor, copied: Any) -> None:
    """A copy, made after a call, computes the same."""
    model(x)
    same(copied(model)(x), expected)


def test_hooks_see_input_and_output(model: Model, x: Tensor) -> None:
    """Forward hooks and pre-hooks run around the child."""
    shapes: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    model.backbone.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    model(x)
    assert shapes == [(4, WIDTH), (4, FEATURES)]


def test_backward_hooks_see_the_gradients(model: Model, x: Tensor) -> None:
    """A full backward hook runs around the child where its input needs a gradient."""
    shapes: list[tuple[int, ...]] = []

    def hook(_: nn.Module, into: Any, out: Any) -> None:
        shapes.extend((tuple(into[0].shape), tuple(out[0].shape)))

    model.backbone.register_full_backward_hook(hook)
    model(x.requires_grad_()).sum().backward()
    assert shapes == [(4, WIDTH), (4, FEATURES)]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(model: Model, x: Tensor, expected: Tensor, context: Any) -> None:
    """Every mode gives the same values."""
    with context():
        same(model(x), expected)


def test_autocast(model: Model, x: Tensor, expected: Tensor) -> None:
    """Inside autocast the head computes in bfloat16, from features of any type."""
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert got.dtype is torch.bfloat16
    same(got, expected, 5e-2)


def test_sequential(model: Model, x: Tensor, expected: Tensor) -> None:
    """The child stands in a Sequential."""
    same(nn.Sequential(model.backbone, model.head)(x), expected)


def test_head_gradients(model: Model, x: Tensor) -> None:
    """The head's gradients are the local ones."""
    reference = Model(mlp()[0])
    for each in (model, reference):
        each(x).square().sum().backward()
    assert model.head.weight.grad is not None
    assert reference.head.weight.grad is not None
    same(model.head.weight.grad, reference.head.weight.grad)


def test_an_adapter_in_front_learns(model: Model, x: Tensor) -> None:
    """Layers before the frozen backbone train through it."""
    torch.manual_seed(2)
    adapter = nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    target = torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(adapter(x)), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_compile_breaks_the_graph_only(model: Model, x: Tensor, expected: Tensor) -> None:
    """torch.compile of the parent runs: the call leaves the graph."""
    compiled = torch.compile(model, backend="eager")
    same(compiled(x), expected)


def _saved(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: Model = torch.load(file, weights_only=False)
    return loaded
