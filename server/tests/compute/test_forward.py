"""One batch through a module: its items are joined, computed and split again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.registry import InputSpec, TensorInput, TextInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import available_devices, use_tf32
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._engine.compute import OutputError
from midrib.wire import Array


class CountTokens(nn.Module):
    """One feature: the number of tokens of a row that are not padding."""

    def forward(self, ids: Tensor) -> Tensor:
        return (ids != 0).sum(dim=1, keepdim=True).float()


def forward(module: nn.Module, spec: InputSpec, dtype: str = "float32") -> Forward:
    return Forward(module, spec, ComputeConfig(dtype=dtype))


def f32(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32)


def test_items_are_joined_and_split_again() -> None:
    """Three rows in two items come back as two and one."""
    run = forward(nn.Linear(2, 3), TensorInput((2,)))
    first, second = run([(f32([1, 2], [3, 4]),), (f32([5, 6]),)])
    (expected,) = run([(f32([1, 2], [3, 4], [5, 6]),)])
    np.testing.assert_allclose(np.concatenate([first, second]), expected, rtol=1e-6)


def test_rows_are_split_without_a_copy() -> None:
    """The rows of each item are a view of the array of the batch."""
    first, second = forward(nn.Linear(2, 3), TensorInput((2,)))([(f32([1, 2], [3, 4]),), (f32([5, 6]),)])
    assert first.base is second.base
    assert first.ctypes.data + first.nbytes == second.ctypes.data


def test_the_rows_of_a_module_that_returns_its_input_are_copied() -> None:
    """The next batch must not overwrite rows that were already answered."""
    run = forward(nn.Flatten(), TensorInput((2,)))
    (first,) = run([(f32([1, 2]),)])
    run([(f32([3, 4]),)])
    assert first.tolist() == [[1, 2]]


def test_texts_of_unequal_length_are_padded_with_zeros() -> None:
    """The padding is 0 even if a longer batch has just used the buffer."""
    run = forward(CountTokens(), TextInput(8))
    run([(np.full((4, 8), 7),)])
    assert [rows.tolist() for rows in run([(np.array([[5, 5]]),), (np.array([[5, 5, 5, 0]]),)])] == [[[2.0]], [[3.0]]]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["f16", "bf16", "f64"])
def test_any_floating_input_is_converted(dtype: type) -> None:
    """Items of different types may share a batch."""
    run = forward(nn.Flatten(), TensorInput((2,)))
    assert [rows.tolist() for rows in run([(f32([1, 2]).astype(dtype),), (f32([3, 4]),)])] == [[[1, 2]], [[3, 4]]]


def test_bfloat16_compute_gives_bfloat16_rows() -> None:
    """The dtype of the rows is the compute dtype."""
    (rows,) = forward(nn.Linear(2, 3), TensorInput((2,)), "bfloat16")([(f32([1, 2]),)])
    assert rows.dtype == ml_dtypes.bfloat16


def test_two_arrays_an_item_give_the_input_gradient() -> None:
    """It equals the gradient by autograd, for every item of the batch."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(module(x), x, grad)
    inputs, grads = x.detach().numpy(), grad.numpy()
    gradients = forward(module, TensorInput((2,)), "float64")([(inputs[:1], grads[:1]), (inputs[1:], grads[1:])])
    np.testing.assert_allclose(np.concatenate(gradients), expected.numpy(), rtol=1e-12)


def test_examples_are_the_same_every_time() -> None:
    """Warm-up and the parity self-test are reproducible."""
    np.testing.assert_array_equal(example_rows(TensorInput((4,)), 2), example_rows(TensorInput((4,)), 2))


@pytest.fixture()
def _tf32_off_again() -> Iterator[None]:
    yield
    use_tf32(allowed=False)


@pytest.mark.usefixtures("_tf32_off_again")
@pytest.mark.parametrize("allowed", [True, False], ids=["on", "off"])
def test_tf32_is_as_it_is_set(allowed: bool) -> None:
    """In matrix products and in convolutions alike, and independent of the setting before."""
    use_tf32(not allowed)
    use_tf32(allowed)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed


def test_a_missing_device_is_an_error() -> None:
    """A setting may name CUDA on a machine without it."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="device 'cuda' was asked for, and torch sees no CUDA device"):
        available_devices("cuda")


class Small(nn.Module):
    """A device whose memory holds two rows."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 2


def test_rows_that_do_not_fit_are_run_in_halves() -> None:
    """One item too large for the device still gets its rows, in order."""
    (rows,) = forward(Small(), TensorInput((1,)))([(f32([1], [2], [3], [4]),)])
    assert rows.tolist() == [[2], [4], [6], [8]]


def test_rows_that_do_not_fit_in_halves_either_are_an_error() -> None:
    """They are halved once only."""
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        forward(Small(), TensorInput((1,)))([(np.ones((5, 1), np.float32),)])


class SmallInPlace(Small):
    """Adds 1 to its input before it finds the memory full."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.add_(1))


def test_rows_that_do_not_fit_are_not_run_again_once_the_module_has_changed_them() -> None:
    """The second run would add 1 again, and its rows would be wrong."""
    module = forward(SmallInPlace(), TensorInput((1,)))
    assert module([(f32([1], [2]),)])[0].tolist() == [[4], [6]]
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        module([(f32([1], [2], [3], [4]),)])


class Broken(nn.Module):
    """Changes its output by a function whenever a row of the batch holds 13."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, rows: Tensor) -> Any:
        return self.change(rows) if bool((rows == 13).any()) else rows


@pytest.mark.parametrize(
    ("change", "returned"),
    [
        pytest.param(lambda rows: rows[:-1], r"float32 \[1, 2\]", id="a row too few"),
        pytest.param(lambda rows: torch.cat([rows[:1], rows]), r"float32 \[3, 2\]", id="a row too many"),
        pytest.param(lambda rows: rows[:, :1], r"float32 \[2, 1\]", id="too narrow"),
        pytest.param(lambda rows: rows[None], r"float32 \[1, 2, 2\]", id="a dimension too many"),
        pytest.param(lambda rows: rows.long(), r"int64 \[2, 2\]", id="integers"),
        pytest.param(lambda rows: (rows, rows), "a tuple", id="a tuple"),
    ],
)
def test_an_output_that_breaks_the_contract_is_an_error(change: Callable[[Tensor], Any], returned: str) -> None:
    """Otherwise callers would get the rows of other callers."""
    run = Forward(Broken(change), TensorInput((2,)), num_features=2)
    with pytest.raises(OutputError, match=rf"returned .*{returned}, expected a floating tensor \[2, 2\]"):
        run([(f32([1, 2]),), (f32([13, 2]),)])


@pytest.mark.parametrize("rows", [(f32([1, 2]),), (f32([1, 2]), f32([1, 1]))], ids=["embedding", "gradient"])
def test_a_module_that_calls_exit_fails_its_item(rows: tuple[Array, ...]) -> None:
    """SystemExit would end the replica's thread, and with it the batches of other callers."""

    class Exit(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"the module raised SystemExit\(3\)"):
        forward(Exit(), TensorInput((2,)))([rows])
