"""The contract of a backbone, tried at load."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from midrib.registry import AudioInput, ContractError, InputSpec, TensorInput, TextInput

_OPEN_LENGTH = 16


def settle_input(name: str, module: nn.Module, registered: InputSpec | None) -> InputSpec:
    """Say what a loaded module takes.

    In this order: `module.input`, for what is known only once loaded; the registration's `input`; and, where that is
    missing or leaves a row's width open, the width of a first layer that is linear.
    """
    own = getattr(module, "input", None)
    if own is not None:
        return own  # type: ignore[no-any-return] # a module's own, checked just above
    width = _linear_width(module)
    if registered is None or (registered == TensorInput((None,)) and width is not None):
        if width is None:
            raise ContractError(
                f"backbone {name!r} does not say what it takes: register it with input=, such as ImageInput(224)"
            )
        return TensorInput((width,))
    return registered


def _linear_width(module: nn.Module) -> int | None:
    for layer in module.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            return layer.in_features if isinstance(layer, nn.Linear) else None
    return None


def check_output(name: str, module: nn.Module, num_features: int, spec: InputSpec) -> None:
    """Run two rows through the module, in eval mode.

    Raises ContractError if the answer is not two rows of num_features.
    """
    rows = example_rows(spec, 2).to(device_of(module))
    try:
        with torch.inference_mode():
            out = module(rows)
    except Exception as error:
        raise ContractError(
            f"backbone {name!r} fails on a batch of shape {list(rows.shape)}, {rows.dtype}, which its input {spec} "
            f"promises to take: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(out, Tensor):
        raise ContractError(f"backbone {name!r} returned {type(out).__name__}, expected one tensor [rows, features]")
    expected = (2, num_features)
    if tuple(out.shape) != expected or not out.is_floating_point():
        raise ContractError(
            f"backbone {name!r} returned {list(out.shape)}, {out.dtype} for 2 rows, expected {list(expected)}, "
            "floating: pool its output to one row an item, and return the width of that row as num_features"
        )


def example_rows(spec: InputSpec, rows: int) -> Tensor:
    """Return a small valid batch, the same at every call, each row different."""
    shape = (rows, *(_length(spec) if side is None else side for side in spec.tensor.shape))
    generator = torch.Generator().manual_seed(0)
    dtype: torch.dtype = getattr(torch, spec.tensor.dtype)
    if dtype.is_floating_point:
        return (torch.rand(shape, generator=generator) * 2 - 1).to(dtype)
    # Small ids: every vocabulary has them, and none is the padding.
    return torch.randint(1, 8, shape, generator=generator).to(dtype)


def _length(spec: InputSpec) -> int:
    if isinstance(spec, AudioInput):
        return spec.rate
    return min(spec.max_tokens, 8) if isinstance(spec, TextInput) else _OPEN_LENGTH


def device_of(module: nn.Module) -> torch.device:
    """Return where the module's first parameter or buffer lies; the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
