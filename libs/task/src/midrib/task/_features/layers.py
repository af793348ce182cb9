"""A network that ends at one of its layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class _LayerReached(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a forward pass at a layer, with the layer's output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class UpTo(nn.Module):
    """A module that returns the output of one of its layers and computes nothing after it.

    Returns [batch, width]: outputs [batch, tokens, width] are averaged over the tokens, feature maps
    [batch, channels, height, width] over the positions.  If a layer is called several times, the first call counts.
    Raises RuntimeError if the forward pass does not call the layer.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module = module
        self._layer = layer

    def forward(self, inputs: Any) -> Tensor:
        """Return the layer's output, pooled: [batch, width].  Raises RuntimeError if the pass does not call it."""
        hook = self.module.get_submodule(self._layer).register_forward_hook(_stop)
        try:
            self.module(inputs)
        except _LayerReached as reached:
            output = reached.output
        else:
            raise RuntimeError(f"the forward pass did not call layer {self._layer!r}: choose another layer")
        finally:
            hook.remove()
        return _pooled(output[0] if isinstance(output, tuple) else output)


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 (a hook's signature)
    """Raise _LayerReached with the layer's output, which ends the pass."""
    raise _LayerReached(output)


def _pooled(output: Tensor) -> Tensor:
    if output.dim() == 4:
        return output.mean((2, 3))
    return output.flatten(1, -2).mean(1) if output.dim() > 2 else output
