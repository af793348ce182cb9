"""`RemoteBackbone` over a real server."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES, load_backbone
from midrib.registry import Registry, TensorInput
from midrib.remote import RemoteBackbone, open_url
from midrib.server.testing import RunningServer, serving
from midrib.wire import (
    InvalidInputError,
    RevisionMismatchError,
    UnavailableError,
    UnsupportedError,
)

pytestmark = pytest.mark.usefixtures("route")
NAME = "test/numbers/mlp"
WIDTH = 8
REGISTRY = Registry("test")


@REGISTRY(name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=128)
def mlp() -> tuple[nn.Module, int]:
    """The same weights wherever it is loaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.Tanh()).eval(), 128


@REGISTRY(name="mlp-exact", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=128)
def mlp_exact() -> tuple[nn.Module, int]:
    """Its weights are powers of two, one a feature: the server's parity check finds float64 equal to float32."""
    layer = nn.Linear(WIDTH, 128, bias=False)
    layer.weight.data = torch.cat([torch.eye(WIDTH) * (-2.0) ** power for power in range(-8, 8)])
    return nn.Sequential(layer, nn.ReLU()).eval(), 128


@pytest.fixture(scope="module")
def local() -> nn.Module:
    return mlp()[0]


@pytest.fixture()
def remote(server: RunningServer) -> RemoteBackbone:
    return RemoteBackbone(server.url(NAME))


def test_it_has_the_attributes_of_a_local_backbone(remote: RemoteBackbone) -> None:
    """Width, input and revision are known from construction on."""
    here = load_backbone(NAME, registry=REGISTRY)
    assert (remote.num_features, remote.input, remote.revision) == (128, TensorInput((WIDTH,)), here.revision())
    assert remote.is_remote


@pytest.mark.parametrize("rows", [0, 1, 64, 1025])
def test_any_batch_equals_the_local_backbone(remote: RemoteBackbone, local: nn.Module, rows: int) -> None:
    """The same rows to 1e-5, in any batch."""
    x = torch.randn(rows, WIDTH)
    torch.testing.assert_close(remote(x), local(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_output_has_the_inputs_floating_type(remote: RemoteBackbone, local: nn.Module, dtype: torch.dtype) -> None:
    """The features are the local ones, rounded to that type."""
    x = torch.randn(3, WIDTH).to(dtype)
    got = remote(x)
    torch.testing.assert_close(got, local(x.float()).to(dtype).detach(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_a_smaller_wire_type_stays_within_its_rounding(
    server: RunningServer, local: nn.Module, dtype: str, bound: float
) -> None:
    """float16 keeps 11 bits and bfloat16 8 of each input and feature; half the bytes travel."""
    x = torch.randn(64, WIDTH)
    got = RemoteBackbone(server.url(NAME), dtype=dtype)(x)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, local(x).detach(), atol=bound, rtol=bound)


def test_int8_features_are_off_by_a_254th_of_their_rows_largest(server: RunningServer, local: nn.Module) -> None:
    """The features take a quarter of the bytes, plus a scale per row."""
    x = torch.randn(64, WIDTH)
    int8, plain = (RemoteBackbone(server.url(NAME), dtype=dtype) for dtype in ("int8", None))
    before = [backbone.stall for backbone in (int8, plain)]
    got, want = int8(x), plain(x)
    small, large = (b.stall - s for b, s in zip((int8, plain), before, strict=True))
    assert bool(((got - want).abs() <= want.abs().amax(1, keepdim=True) * (1 / 254 + 1e-6)).all())
    assert large.received_bytes - small.received_bytes >= 64 * (128 * 3 - 4) - 8
    assert small.sent_bytes == large.sent_bytes


def test_input_gradients_equal_the_local_ones(remote: RemoteBackbone, local: nn.Module) -> None:
    """Layers before a frozen remote backbone can be trained."""
    x = torch.randn(5, WIDTH)
    gradients = [_gradient(backbone, x) for backbone in (remote, local)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_no_gradient_is_computed_unless_it_is_needed(remote: RemoteBackbone) -> None:
    """Inputs that need no gradient, and no_grad, leave nothing to call back."""
    x = torch.randn(2, WIDTH)
    assert remote(x).grad_fn is None
    with torch.no_grad():
        assert remote(x.requires_grad_()).grad_fn is None


def test_a_second_derivative_is_a_clear_error(remote: RemoteBackbone) -> None:
    """The server answers first derivatives only, and the error says what to do."""
    x = torch.randn(2, WIDTH, requires_grad=True)
    (grad,) = torch.autograd.grad(remote(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivative: use a local one"):
        grad.sum().backward()  # type: ignore[no-untyped-call] # torch does not type it


def test_gradcheck_in_float64() -> None:
    """The remote gradient is the derivative of the remote forward pass."""
    name = f"{NAME}-exact"
    with serving(name, registry=REGISTRY, dtype="float64") as server:
        remote = RemoteBackbone(server.url(name))
        x = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(remote, (x,))


def test_a_pinned_revision_is_insisted_on(server: RunningServer) -> None:
    """Another revision is refused at construction, with a sentence that says what to do."""
    with pytest.raises(RevisionMismatchError, match="expected 0000.*serve that one, or drop revision="):
        RemoteBackbone(server.url(NAME), revision="0" * 64)


def test_a_missing_server_is_an_error_at_construction() -> None:
    """Within the deadline, with the address and the command that starts one."""
    with pytest.raises(UnavailableError, match="no server answers at 127.0.0.1:9.*midrib serve"):
        RemoteBackbone(f"grpc://127.0.0.1:9/{NAME}", timeout=1.0)


def test_an_integer_wire_type_is_refused(server: RunningServer) -> None:
    """dtype= is for floating values."""
    with pytest.raises(InvalidInputError, match="expected a floating type"):
        RemoteBackbone(server.url(NAME), dtype="int64")


def test_the_registry_opens_grpc_names(server: RunningServer) -> None:
    """With midrib-remote installed, a URL loads like any name."""
    module, num_features = BACKBONES.load(server.url(NAME))
    assert (type(module), num_features) == (RemoteBackbone, 128)
    assert open_url(server.url(NAME), timeout=5.0)[0].timeout == 5.0


def _gradient(backbone: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    backbone(x).square().sum().backward()
    assert x.grad is not None
    return x.grad
