"""Batches through a module in three steps, so that one can be staged while another computes: stage, launch, finish.

With its neighbours in this folder the only part of the server that computes with torch. The module runs in
eval mode under inference_mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from midrib.backbones import _contract as contract
from midrib.registry import InputSpec, TextInput
from midrib.server._compute.cuda_graphs import Graphs
from midrib.server._compute.devices import Pending, Ready, Run, device_for
from midrib.server._compute.joining import split_rows
from midrib.server._compute.output import checked
from midrib.server._compute.staging import BufferPool, StagingBuffer
from midrib.server._engine.buckets import usual_shapes
from midrib.server._engine.replica import Arrays
from midrib.wire import Array

_EXAMPLE_TOKENS = 32


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how a backbone computes.

    device, dtype: torch's names.  strict: every row goes through the module alone and unpadded, so that its bits depend
    on nothing else.  compile: the backend of torch.compile; not compiled where None.
    graphs: replay CUDA graphs of the usual batches; nothing on a CPU.
    """

    device: str = "cpu"
    dtype: str = "float32"
    strict: bool = False
    compile: str | None = None
    graphs: bool = False


class Forward:
    """A backbone on one device, called with the arrays of one batch.

    module: in eval mode; moved to the device and to the compute dtype.
    num_features: the width of the module's output, which is checked after every pass; any width if None.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: InputSpec,
        config: ComputeConfig | None = None,
        *,
        num_features: int | None = None,
    ) -> None:
        config = config or ComputeConfig()
        device, self.dtype = torch.device(config.device), getattr(torch, config.dtype)
        self._module = module.eval().requires_grad_(requires_grad=False).to(device)
        if config.dtype != "float32":
            self._module = self._module.to(self.dtype)
        self.spec = spec
        self.torch_device = device
        self._strict = config.strict
        embed: Callable[[Tensor], Tensor] = self._module
        if config.compile is not None:
            embed = torch.compile(self._module, backend=config.compile, dynamic=True)
        self._embed = checked(embed, num_features)
        self.graphs = Graphs(self._embed) if config.graphs and device.type == "cuda" else None
        self.device = device_for(device, self.dtype)
        self.depth = self.device.depth
        floating = torch.promote_types(self.dtype, torch.float32)
        dtypes = (torch.int64 if takes_integers(spec) else floating, floating)
        self.staged_dtypes = tuple(str(dtype).removeprefix("torch.") for dtype in dtypes)
        self._buffers = BufferPool(StagingBuffer(dtypes, pinned=self.device.pinned) for _ in range(self.depth))

    def __call__(self, batch: Sequence[Arrays]) -> list[Array]:
        """The rows of every item, by all three steps."""
        return self.stage(batch).launch().finish()

    def stage(self, batch: Sequence[Arrays]) -> Staged:
        """Put a batch together in one buffer: embeddings for one array an item, input gradients for two."""
        buffer = self._buffers.take()
        staged = Staged(self, buffer, [len(arrays[0]) for arrays in batch])
        try:
            if self._strict and len(batch[0]) == 1:
                staged.alone = [row for (rows,) in batch for row in rows]
            else:
                staged.inputs += [buffer.fill(index, arrays) for index, arrays in enumerate(zip(*batch, strict=True))]
        except BaseException:
            self._buffers.give_back(buffer)
            raise
        return staged

    def launch(self, staged: Staged) -> Launched:
        """Start on a staged batch; on a CPU it has ended when this returns. Raises what the module raises."""
        try:
            run = self._features if len(staged.inputs) == 1 else self._gradient
            pending = self._one_by_one(staged) if staged.alone else self.device.launch(staged.inputs, run)
        except BaseException:
            self._buffers.give_back(staged.buffer)
            raise
        return Launched(staged, pending, pending.ready)

    def finish(self, staged: Staged, pending: Pending) -> list[Array]:
        """The rows of every item, once they are on the host: views of one array, which nothing else writes to."""
        try:
            rows = pending.wait()
            if staged.buffer.holds(rows):  # a module may hand its input back (Identity, Flatten)
                rows = rows.clone()
        finally:
            self._buffers.give_back(staged.buffer)
        return split_rows(_to_numpy(rows), staged.lengths)

    def close(self) -> None:
        """Do nothing: the memory is freed with the last reference."""

    def _features(self, inputs: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            if self.graphs is not None and (rows := self.graphs.replay(inputs[0])) is not None:
                return rows
            return self._within_memory(inputs, lambda some: self._embed(some[0]))

    def _gradient(self, inputs: Sequence[Tensor]) -> Tensor:
        return self._within_memory(inputs, self._gradient_of)

    def _gradient_of(self, inputs: Sequence[Tensor]) -> Tensor:
        leaf = inputs[0].clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._module(leaf), leaf, inputs[1])
        return gradient

    def _within_memory(self, inputs: Sequence[Tensor], run: Run) -> Tensor:
        """The module's rows; a batch that does not fit into memory is run in two halves, once."""
        try:
            return run(inputs)
        except (torch.OutOfMemoryError, MemoryError):
            if len(inputs[0]) < 2:
                raise
        # Outside the handler: the traceback would keep the failed attempt's memory alive.
        torch.cuda.empty_cache()
        halves = zip(*(one.chunk(2) for one in inputs), strict=True)
        return torch.cat([run(half) for half in halves])

    def _one_by_one(self, staged: Staged) -> Pending:
        """The same buffer serves all rows: each is back before the next is filled in."""
        outputs = []
        for row in staged.alone:
            alone = row[: np.flatnonzero(row).max(initial=0) + 1] if isinstance(self.spec, TextInput) else row
            pending = self.device.launch([staged.buffer.fill(0, [alone[None]])], self._alone)
            outputs.append(pending.wait().clone())
        return Ready(torch.cat(outputs))

    def _alone(self, inputs: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            return self._embed(inputs[0])


@dataclass
class Staged:
    """A batch whose buffers are filled.

    lengths: the rows of each item.  inputs: on the host, one tensor for each of an item's arrays.
    alone: in strict mode, every row of the batch instead.
    """

    forward: Forward
    buffer: StagingBuffer
    lengths: list[int]
    inputs: list[Tensor] = field(default_factory=list)
    alone: list[Array] = field(default_factory=list)

    def launch(self) -> Launched:
        """Start on it; raises what the module raises."""
        return self.forward.launch(self)


@dataclass
class Launched:
    """A batch that a device has.

    ready: whether `finish` returns at once.
    """

    staged: Staged
    pending: Pending
    ready: bool

    def finish(self) -> list[Array]:
        """The rows of every item, once they are on the host."""
        return self.staged.forward.finish(self.staged, self.pending)


def _to_numpy(rows: Tensor) -> Array:
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result: Array = rows.numpy()
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


def use_tf32(allowed: bool) -> None:
    """Whether float32 on a GPU may round its factors to TF32's ten bits, in matrix products and in convolutions alike.

    It is off unless somebody sets it: torch itself allows it for convolutions. It holds for the whole process.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def example_rows(spec: InputSpec, rows: int, shape: tuple[int, ...] | None = None) -> Array:
    """Return rows to warm up and to measure with, [rows, *shape], float32 or int64; the same at every call.

    shape: of one row; by default its usual one.
    """
    if shape is None:
        shape = (min(_EXAMPLE_TOKENS, spec.max_tokens),) if isinstance(spec, TextInput) else next(usual_shapes(spec))
    batch = contract.example_rows(spec, rows, shape)
    array: Array = (batch.float() if batch.is_floating_point() else batch.long()).numpy()
    return array


def takes_integers(spec: InputSpec) -> bool:
    """Whether its rows are of integers, token ids say."""
    return spec.tensor.dtype.startswith(("int", "uint", "bool"))
