"""The gradient of a remote backbone's input, which the server computes, for autograd and torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from midrib.wire import UnsupportedError

# Rows [rows, ...] to features [rows, num_features]; and rows with the gradient of their features to the rows' gradient.
Embed: TypeAlias = Callable[[Tensor], Tensor]
Gradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def embed_with_gradient(x: Tensor, embed: Embed, gradient: Gradient) -> Tensor:
    """Return embed(x), [rows, num_features]. Its backward pass calls gradient; torch.func's transforms apply to it."""
    features: Tensor = _Embed.apply(x, embed, gradient)  # type: ignore[no-untyped-call] # torch does not type it
    return features


class _Embed(torch.autograd.Function):
    """The remote forward pass, whose backward pass is remote as well."""

    @staticmethod
    def forward(x: Tensor, embed: Embed, _: Gradient) -> Tensor:
        """Return the features [rows, num_features] of rows x [rows, ...]."""
        return embed(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Embed, Gradient], _: Tensor) -> None:
        """Keep the rows [rows, ...] and the gradient function for the backward pass."""
        x, __, ctx.gradient = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient [rows, ...] of the rows for the gradient [rows, num_features] of their features."""
        (x,) = ctx.saved_tensors
        return _Gradient.apply(grad, x, ctx.gradient), None, None  # type: ignore[no-untyped-call] # torch's

    @staticmethod
    def jvp(_: Any, *__: Tensor | None) -> Tensor:
        """Raise UnsupportedError for tangents [rows, ...]: the server computes backward passes only."""
        raise UnsupportedError(
            "a remote backbone has no forward-mode derivative: use torch.func.vjp or jacrev, or a local backbone",
            reason="FORWARD_MODE",
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, embed: Embed, gradient: Gradient
    ) -> tuple[Tensor, int]:
        """Embed the rows of all batches as one batch: x is [batches, rows, ...], with the batches at in_dims[0]."""
        batches = _batches_first(x, in_dims[0], info.batch_size)
        features = embed_with_gradient(batches.flatten(0, 1), embed, gradient)
        return features.reshape(*batches.shape[:2], *features.shape[1:]), 0


class _Gradient(torch.autograd.Function):
    """The remote backward pass, which has no derivative."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, gradient: Gradient) -> Tensor:
        """Return the gradient [rows, ...] of rows x [rows, ...] for grad [rows, num_features]."""
        return gradient(x, grad)

    @staticmethod
    def setup_context(_: Any, __: tuple[Tensor, Tensor, Gradient], ___: Tensor) -> None:
        """Keep no tensor [rows, ...], because a second derivative is not supported."""

    @staticmethod
    def backward(_: Any, *__: Tensor) -> Any:
        """Raise UnsupportedError for a gradient [rows, ...]: the server computes first derivatives only."""
        raise UnsupportedError(
            "a remote backbone has no second derivative: use a local one, or detach the first gradient",
            reason="DOUBLE_BACKWARD",
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], grad: Tensor, x: Tensor, gradient: Gradient
    ) -> tuple[Tensor, int]:
        """Compute the gradients of all batches as one batch: grad is [batches, rows, num_features], x as in forward."""
        grads = _batches_first(grad, in_dims[0], info.batch_size)
        batches = _batches_first(x, in_dims[1], info.batch_size)
        rows: Tensor = _Gradient.apply(  # type: ignore[no-untyped-call] # torch does not type it
            grads.flatten(0, 1), batches.flatten(0, 1), gradient
        )
        return rows.reshape(batches.shape), 0


def _batches_first(x: Tensor, dim: int | None, batches: int) -> Tensor:
    """Return x as [batches, rows, ...]; repeated if it has no dimension of batches (dim is None)."""
    return x.expand(batches, *x.shape) if dim is None else x.movedim(dim, 0)
