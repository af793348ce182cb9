"""The parity self-test: before it serves, a replica must give the rows of the module as it was loaded."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from midrib.backbones import Backbone
from midrib.backbones._pixels.normalize import normalized
from midrib.registry import ImageInput, TextInput
from midrib.server._compute.examples import example_pixels, example_rows
from midrib.server._compute.forward import Forward
from midrib.wire import Array, MidribError

# The largest difference between a row that the loaded module computes alone and the same row in a batch of the engine,
# relative to the largest feature. A backbone that differs by more is not served.
PARITY_BOUND = {"float64": 1e-4, "float32": 1e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 1e-1}
_PARITY_ROWS = 3


class ParityError(MidribError, RuntimeError):
    """The engine's rows differ from those of the loaded module, so the backbone is not served."""

    default_reason = "PARITY"


@dataclass(frozen=True)
class ParityReference:
    """Inputs of one row each, [1, ...], and their rows by the loaded module, [inputs, num_features], float64.

    reuses_memory: whether the module returns all rows in the same memory, so that its passes cannot run in parallel.
    keeps_inputs: whether something still refers to an input after its pass, such as a cache or a thread of the module.
    """

    inputs: Sequence[Array]
    rows: Array
    reuses_memory: bool = False
    keeps_inputs: bool = False


def parity_reference(backbone: Backbone) -> ParityReference:
    """Return example inputs and their rows by the loaded module, computed one at a time, before the engine moves it.

    Texts have unequal lengths, so that the engine has to pad them. The last image is pixels of uint8. Raises the
    errors of the module.
    """
    rows = example_rows(backbone.input, _PARITY_ROWS)
    uneven = isinstance(backbone.input, TextInput)
    inputs = [
        rows[index : index + 1, : rows.shape[1] - index] if uneven else rows[index : index + 1]
        for index in range(len(rows))
    ]
    if isinstance(backbone.input, ImageInput):
        inputs.append(example_pixels(backbone.input))
    outputs, copies, given = [], [], []
    with torch.inference_mode():
        for row in map(np.copy, inputs):  # a module may write to its input
            given.append(weakref.ref(row))
            outputs.append(backbone.module(_floats(row, backbone)))
            copies.append(outputs[-1].clone())
    addresses = {output.untyped_storage().data_ptr() for output in outputs}
    reuses_memory = len(addresses) < len(outputs)
    del row, outputs  # an output may be a view of its input
    keeps_inputs = any(reference() is not None for reference in given)
    return ParityReference(inputs, torch.cat(copies).double().numpy(), reuses_memory, keeps_inputs)


def _floats(row: Array, backbone: Backbone) -> Tensor:
    """Return an input [1, ...] as the module takes it; pixels normalised."""
    tensor = torch.from_numpy(row)
    if isinstance(backbone.input, ImageInput) and tensor.dtype == torch.uint8:
        return normalized(tensor, backbone.input)
    return tensor


def check_parity(name: str, forward: Forward, reference: ParityReference, bound: float) -> None:
    """Raise ParityError unless the engine gives the rows of the reference in a batch per dtype, within the bound."""
    batches = [list(batch) for _, batch in groupby(reference.inputs, lambda row: row.dtype)]
    outputs = [row for batch in batches for row in forward([(row,) for row in batch])]
    rows = np.concatenate(outputs).astype(np.float64)
    difference = float(np.abs(rows - reference.rows).max()) / max(float(np.abs(reference.rows).max()), 1e-12)
    if not difference <= bound:
        dtype = str(forward.dtype).removeprefix("torch.")
        raise ParityError(
            f"backbone {name!r} in {dtype} differs from its own module by {difference:.2g} of its largest feature, "
            f"at most {bound:.0e} is allowed: serve it in float32"
        )
