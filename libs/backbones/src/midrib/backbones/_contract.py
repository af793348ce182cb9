"""Check the contract of a backbone when it is loaded."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from midrib.backbones._pixels.normalize import normalized
from midrib.registry import AudioInput, ContractError, ImageInput, InputSpec, TensorInput, TextInput

_OPEN_LENGTH = 16


def check_module(name: str, module: object) -> None:
    """Raise ContractError for an object that is not a torch module, or a module whose weights have no values yet."""
    if not isinstance(module, nn.Module):
        raise ContractError(
            f"the loader of backbone {name!r} returned {module!r:.80} of type {type(module).__name__} as its module, "
            "expected a torch.nn.Module: wrap it in one"
        )
    for weight, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if nn.parameter.is_lazy(value) or value.is_meta:
            kind = "uninitialized" if nn.parameter.is_lazy(value) else "on the meta device"
            raise ContractError(
                f"backbone {name!r} has the weight {weight!r}, which is {kind}, expected values: set them in the loader"
            )


def settle_input(name: str, module: nn.Module, registered: InputSpec | None) -> InputSpec:
    """Return the input spec of a loaded module.

    It is `module.input` if the module has it; else the registration's `input`; and if that is missing or leaves the
    width of a row open, the width of the first layer, if that is linear.
    Raises ContractError if none of them says it.
    """
    declared = getattr(module, "input", None)
    if declared is not None:
        return declared  # type: ignore[no-any-return] # an attribute that the loader set
    width = _linear_width(module)
    if registered is None or (registered == TensorInput((None,)) and width is not None):
        if width is None:
            raise ContractError(
                f"backbone {name!r} does not declare its input: register it with input=, such as ImageInput(224)"
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

    Raises ContractError if the result is not [2, num_features], floating.
    """
    rows = example_rows(spec, 2).to(device_of(module))
    try:
        with torch.inference_mode():
            out = module(as_module_input(module, spec, rows))
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
            "floating: pool its output to one row per item, and return the width of that row as num_features"
        )


def example_rows(spec: InputSpec, rows: int, row_shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a valid batch, [rows, *row_shape], the same at every call, each row different.

    row_shape: by default the input's, with a small length where that is open.
    """
    shape = row_shape
    if shape is None:
        shape = tuple(_length(spec) if side is None else side for side in spec.tensor.shape)
    generator = torch.Generator().manual_seed(0)
    dtype: torch.dtype = getattr(torch, spec.tensor.dtype)
    if dtype.is_floating_point:
        return (torch.rand((rows, *shape), generator=generator) * 2 - 1).to(dtype)
    # Small ids: every vocabulary has them, and 0 would be padding.
    return torch.randint(1, 5, (rows, *shape), generator=generator).to(dtype)


def _length(spec: InputSpec) -> int:
    if isinstance(spec, AudioInput):
        return spec.rate
    return min(spec.max_tokens, 8) if isinstance(spec, TextInput) else _OPEN_LENGTH


def as_tensor(batch: object, spec: InputSpec) -> Tensor | None:
    """Return a tensor or an array [rows, ...] as a tensor; None for anything else, and for arrays of texts or images.

    An array of images is [rows, height, width, 3]; the module takes [rows, 3, height, width].
    """
    if not isinstance(batch, np.ndarray):
        return batch if isinstance(batch, Tensor) else None
    if batch.dtype.kind not in "biuf" or (isinstance(spec, ImageInput) and batch.shape[1:2] != (3,)):
        return None
    return torch.from_numpy(np.require(batch, requirements="W"))  # torch warns about read-only arrays


def as_module_input(module: nn.Module, spec: InputSpec, batch: Tensor) -> Tensor:
    """Return a batch [rows, ...] in the element type that the module computes in, the same shape.

    Images of uint8 are normalised as spec says, unless the server of a remote module does it (`takes_pixels`).
    Floating rows become the dtype of the module's parameters.
    """
    if isinstance(spec, ImageInput) and batch.dtype == torch.uint8 and not getattr(module, "takes_pixels", False):
        batch = normalized(batch, spec)
    return batch.to(_dtype_of(module, spec)) if batch.is_floating_point() else batch


def _dtype_of(module: nn.Module, spec: InputSpec) -> torch.dtype:
    """Return the dtype of the module's first floating parameter or buffer; the declared one if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    declared: torch.dtype = getattr(torch, spec.tensor.dtype)
    return declared


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's first parameter or buffer; the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
