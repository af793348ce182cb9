"""A backbone on one device: stages the arrays of a batch, and has the device run the module's passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import InputSpec, TextInput
from midrib.server._compute.batches import StagedBatch
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import Pending, ReadyRows, device_for
from midrib.server._compute.examples import takes_integers
from midrib.server._compute.in_place import InPlaceRule, RowsInPlace
from midrib.server._compute.module_passes import ModulePasses
from midrib.server._compute.staging import BufferPool, PooledBuffer, StagingBuffer
from midrib.server._engine.compute import Arrays
from midrib.wire import Array


class Forward:
    """A backbone on one device, called with the arrays of one batch; implements `Compute` of the engine.

    module: set to eval mode, frozen, and moved to the device and the compute dtype.
    num_features: the width of the module's output, which is checked after every pass; any width if None.
    before_pass: called first whenever this object is called, but not for the staged batches of callers.
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
        self.before_pass: Callable[[], object] = lambda: None
        self.spec, self.torch_device, self.dtype = spec, torch.device(config.device), getattr(torch, config.dtype)
        module = _frozen(module.eval()).to(self.torch_device)
        if config.dtype != "float32":
            module = module.to(self.dtype)
        self._passes = ModulePasses(module, spec, config=config, num_features=num_features)
        self.graphs = self._passes.graphs
        self.device = device_for(self.torch_device, self.dtype)
        self.depth = self.device.depth
        self.strict = config.strict
        floating = torch.promote_types(self.dtype, torch.float32)
        dtypes = (torch.int64 if takes_integers(spec) else floating, floating)
        self.staged_dtypes = tuple(str(dtype).removeprefix("torch.") for dtype in dtypes)
        self._in_place = InPlaceRule(self.staged_dtypes, possible=self.torch_device.type == "cpu" and not self.strict)
        self._buffers = BufferPool(StagingBuffer(dtypes, pinned=self.device.pinned) for _ in range(self.depth))

    def __call__(self, batch: Sequence[Arrays]) -> list[Array]:
        """Stage, launch and finish a batch; return the rows of each item.

        Raises the errors of the module and of `before_pass`.
        """
        self.before_pass()
        return self.stage(batch).launch().finish()

    def stage(self, batch: Sequence[Arrays]) -> StagedBatch:
        """Copy a batch into a staging buffer; waits for a free one. A lone item of a client's memory stays there.

        batch: for each item its input [rows, ...], and for an input gradient also the gradient of its embedding.
        """
        if self._in_place.accepts(batch):
            rows = RowsInPlace(batch[0], self._in_place)
            return StagedBatch(rows, [len(rows.inputs[0])], partial(self.launch_in_place, rows.inputs), batch[0][0])
        buffer = self._buffers.take()
        try:
            start = self._staged(buffer, batch)
        except BaseException:
            self._buffers.give_back(buffer)
            raise
        return StagedBatch(PooledBuffer(self._buffers, buffer), [len(arrays[0]) for arrays in batch], start)

    def launch_in_place(self, inputs: Sequence[Tensor]) -> Pending:
        """Start to compute a batch that lies in tensors [rows, ...], without a staging buffer.

        They have the staged dtypes, or are pixels of uint8.

        The tensors stay as they are until the rows are read, which may share their memory. Raises the errors of
        the module.
        """
        return self.device.launch(inputs, self._passes.embed if len(inputs) == 1 else self._passes.gradient)

    def close(self) -> None:
        """Do nothing: the memory is freed with the last reference."""

    def _staged(self, buffer: StagingBuffer, batch: Sequence[Arrays]) -> Callable[[], Pending]:
        """Return the function that starts to compute a batch, once the batch is in the buffer."""
        if self.strict and len(batch[0]) == 1:
            return partial(self._each_alone, buffer, [row for (rows,) in batch for row in rows])
        inputs = [buffer.fill(index, arrays) for index, arrays in enumerate(zip(*batch, strict=True))]
        return partial(self.launch_in_place, inputs)

    def _each_alone(self, buffer: StagingBuffer, rows: Sequence[Array]) -> Pending:
        """Compute every row alone, without padding; the buffer holds one row after the other."""
        outputs = []
        for row in rows:
            unpadded = row[: np.flatnonzero(row).max(initial=0) + 1] if isinstance(self.spec, TextInput) else row
            pending = self.device.launch([buffer.fill(0, [unpadded[None]])], self._passes.embed_alone)
            outputs.append(pending.wait().clone())
        return ReadyRows(torch.cat(outputs))


def _frozen(module: nn.Module) -> nn.Module:
    """Return the module, whose parameters need no gradients now. A ScriptModule has no `requires_grad_` for all."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module
