"""One batch through a module: staging, compute, read-back. The only part of the engine that knows torch.

Policy: the module runs in eval mode under inference_mode; TF32 stays off (torch's default for matrix products), so
float32 means float32.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import AudioInput, InputSpec, TextInput
from midrib.wire import Array

_EXAMPLE_TOKENS = 32
_EXAMPLE_LENGTH = 16
_TUNING_REPEATS = 3


class Forward:
    """A backbone on one device, called with the arrays of one batch.

    module: in eval mode; moved to the device and to the compute dtype.
    strict: every row goes through the module alone and unpadded, so that its bits depend on nothing else.
    """

    def __init__(
        self, module: nn.Module, spec: InputSpec, *, device: str, dtype: str = "float32", strict: bool = False
    ) -> None:
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._module = module.eval().requires_grad_(requires_grad=False).to(self.device)
        if dtype != "float32":
            self._module = self._module.to(self.dtype)
        self._spec = spec
        self._strict = strict
        self._takes_integers = _takes_integers(spec)
        self._staging: dict[int, Tensor] = {}

    def __call__(self, batch: Sequence[tuple[Array, ...]]) -> list[Array]:
        """The rows of every item: embeddings for one array an item, input gradients for two.

        Raises whatever the module raises; nothing of the batch is kept then.
        """
        if self._strict and len(batch[0]) == 1:
            return [self._one_by_one(arrays[0]) for arrays in batch]
        inputs = self._stage([arrays[0] for arrays in batch], slot=0)
        if len(batch[0]) == 1:
            with torch.inference_mode():
                rows = self._read_back(self._features(inputs), inputs)
        else:
            rows = self._gradient(inputs, self._stage([arrays[1] for arrays in batch], slot=1))
        ends = list(itertools.accumulate(len(arrays[0]) for arrays in batch))
        return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def tune_threads(self, rows: int, candidates: Sequence[int]) -> int:
        """Set this thread's intra-op thread count to the fastest by measurement, and return it.

        A count is judged by one row and by so many rows alike: the product of its times. (The wrong
        count costs a small model up to 500 times: its OpenMP threads spin against each other.)
        """
        if self.device.type != "cpu":
            return torch.get_num_threads()
        batches = [[(example_rows(self._spec, 1),)], [(example_rows(self._spec, rows),)]]
        scores = {}
        for count in candidates:
            torch.set_num_threads(count)
            scores[count] = float(np.prod([self._seconds(batch) for batch in batches]))
        best = min(scores, key=scores.__getitem__)
        torch.set_num_threads(best)
        return best

    def _seconds(self, batch: Sequence[tuple[Array, ...]]) -> float:
        self(batch)
        times = []
        for _ in range(_TUNING_REPEATS):
            started = time.perf_counter()
            self(batch)
            times.append(time.perf_counter() - started)
        return min(times)

    def _stage(self, arrays: Sequence[Array], *, slot: int) -> Tensor:
        """Fill one reused buffer with the rows of all items, zero-padded to the longest, on the device."""
        rows = sum(map(len, arrays))
        shapes = {array.shape[1:] for array in arrays}
        longest = tuple(map(max, zip(*shapes, strict=True)))
        host = self._buffer(rows, longest, slot=slot)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, as in process
            if len(shapes) == 1:
                np.concatenate(arrays, out=host.numpy(), casting="unsafe")
            else:
                _pad_into(host.numpy(), arrays)
        if host.dtype == self.dtype and self.device.type == "cpu":
            return host
        dtype = None if self._takes_integers and slot == 0 else self.dtype
        return host.to(self.device, dtype, non_blocking=True)

    def _buffer(self, rows: int, shape: tuple[int, ...], *, slot: int) -> Tensor:
        integers = self._takes_integers and slot == 0
        dtype = torch.int64 if integers else torch.promote_types(self.dtype, torch.float32)
        needed = rows * math.prod(shape)
        flat = self._staging.get(slot)
        if flat is None or flat.numel() < needed:
            flat = torch.empty(needed, dtype=dtype, pin_memory=self.device.type == "cuda")
            self._staging[slot] = flat
        return flat[:needed].view(rows, *shape)

    def _features(self, inputs: Tensor) -> Tensor:
        """The module's rows; a batch that does not fit into memory is run in two halves, once."""
        try:
            return self._module(inputs)  # type: ignore[no-any-return] # a module's call is untyped
        except (torch.OutOfMemoryError, MemoryError):
            if len(inputs) < 2:
                raise
        # Outside the handler: the traceback would keep the failed attempt's memory alive.
        torch.cuda.empty_cache()
        return torch.cat([self._module(half) for half in inputs.chunk(2)])

    def _one_by_one(self, rows: Array) -> Array:
        outputs = []
        for row in rows:
            alone = row[: np.flatnonzero(row).max(initial=0) + 1] if isinstance(self._spec, TextInput) else row
            inputs = self._stage([alone[None]], slot=0)
            with torch.inference_mode():
                outputs.append(self._read_back(self._module(inputs), inputs))
        return np.concatenate(outputs)

    def _gradient(self, inputs: Tensor, grad_rows: Tensor) -> Array:
        leaf = inputs.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._module(leaf), leaf, grad_rows)
        return _to_numpy(gradient)

    def _read_back(self, rows: Tensor, inputs: Tensor) -> Array:
        # A module may hand its input back (Identity, Flatten): the next batch would overwrite it.
        start = inputs.data_ptr()
        if start <= rows.data_ptr() < start + inputs.nbytes:
            rows = rows.clone()
        return _to_numpy(rows)


def _pad_into(view: Array, arrays: Sequence[Array]) -> None:
    view.fill(0)
    offset = 0
    for array in arrays:
        places = (slice(offset, offset + len(array)), *map(slice, array.shape[1:]))
        np.copyto(view[places], array, casting="unsafe")
        offset += len(array)


def _to_numpy(rows: Tensor) -> Array:
    host = rows.detach().cpu().contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result: Array = host.numpy()
    return result


def available_devices(device: str) -> list[str]:
    """The devices that a setting names: "cpu", "cuda" (every one), "cuda:1", or "auto" (CUDA where there is one).

    Raises ValueError where CUDA is asked for and torch sees none.
    """
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device == "auto":
        return found or ["cpu"]
    if device.startswith("cuda") and not found:
        raise ValueError(f"device {device!r} was asked for, and torch sees no CUDA device here: use device='cpu'")
    return found if device == "cuda" else [device]


def example_rows(spec: InputSpec, rows: int) -> Array:
    """Rows of an input, for warming up and for measuring; the same ones every time."""
    source = np.random.default_rng(0)
    shape = (rows, *(_open_length(spec) if size is None else size for size in spec.tensor.shape))
    if _takes_integers(spec):
        return source.integers(1, 100, shape)
    return source.standard_normal(shape, dtype=np.float32)


def _takes_integers(spec: InputSpec) -> bool:
    return spec.tensor.dtype.startswith(("int", "uint", "bool"))


def _open_length(spec: InputSpec) -> int:
    if isinstance(spec, TextInput):
        return min(_EXAMPLE_TOKENS, spec.max_tokens)
    return spec.rate if isinstance(spec, AudioInput) else _EXAMPLE_LENGTH
