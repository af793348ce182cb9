"""The passes of one module: embeddings of a batch, of a single row, and input gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from midrib.backbones._pixels.normalize import normalized
from midrib.registry import ImageInput, InputSpec
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.cuda_graphs import Graphs
from midrib.server._compute.devices import Run
from midrib.server._compute.output import checked, without_exit


class ModulePasses:
    """Runs a module on tensors that are on its device and in its compute dtype, or pixels of uint8.

    module: in eval mode, its weights frozen, on the device of the config.
    spec: describes its input; pixels are normalised as it says, on the device.
    num_features: the width of the module's output, which is checked after every pass; any width if None.
    """

    def __init__(self, module: nn.Module, spec: InputSpec, *, config: ComputeConfig, num_features: int | None) -> None:
        self._module = module
        self._parts = list(module.modules())
        self._spec = spec
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        embed: Callable[[Tensor], Tensor] = module
        if config.compile is not None:
            embed = torch.compile(module, backend=config.compile, dynamic=True)
        self._embed = checked(embed, num_features)
        on_gpu = torch.device(config.device).type == "cuda"
        self.graphs = Graphs(self._embed) if config.graphs and on_gpu else None

    def embed(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the embeddings, [rows, num_features], of one tensor [rows, ...]; by a CUDA graph if there is one.

        Raises OutputError for an output that breaks the contract, and the errors of the module.
        """
        self._keep_eval_mode()
        with torch.inference_mode():
            if self.graphs is not None and (rows := self.graphs.replay(self._floats(inputs[0]))) is not None:
                return rows
            return _within_memory(inputs, lambda tensors: self._embed(self._floats(tensors[0])))

    def embed_alone(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the embedding of one row, [1, ...] to [1, num_features], by the module itself. Raises as `embed`."""
        self._keep_eval_mode()
        with torch.inference_mode():
            return self._embed(self._floats(inputs[0]))

    def gradient(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the input, [rows, ...], given the input and the gradient of its embedding.

        Raises the errors of the module.
        """
        self._keep_eval_mode()
        return _within_memory(inputs, self._gradient)

    def _keep_eval_mode(self) -> None:
        """Return the module to eval mode if a pass has left it: dropout would spoil the rows of later items."""
        if any(part.training for part in self._parts):
            self._module.eval()

    def _floats(self, batch: Tensor) -> Tensor:
        """Return a batch [rows, ...] as the module takes it; pixels are normalised in float32, as clients do it."""
        if isinstance(self._spec, ImageInput) and batch.dtype == torch.uint8:
            return normalized(batch, self._spec).to(self._dtype)
        return batch

    def _gradient(self, inputs: Sequence[Tensor]) -> Tensor:
        leaf = inputs[0].clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = without_exit(lambda: torch.autograd.grad(self._module(leaf), leaf, inputs[1]))
        return gradient


def _within_memory(inputs: Sequence[Tensor], run: Run) -> Tensor:
    """Return the rows that `run` computes; a batch that does not fit into memory is run in two halves, once.

    Raises the error of the first run if that has written to the inputs: a second one would compute wrong rows.
    """
    try:
        return run(inputs)
    except (torch.OutOfMemoryError, MemoryError):
        if len(inputs[0]) < 2 or any(tensor._version for tensor in inputs):  # noqa: SLF001 - torch's count of writes
            raise
    # Outside the handler: the traceback would keep the failed attempt's memory alive.
    torch.cuda.empty_cache()
    halves = zip(*(tensor.chunk(2) for tensor in inputs), strict=True)
    return torch.cat([run(half).clone() for half in halves])  # a module may return memory that it uses again
