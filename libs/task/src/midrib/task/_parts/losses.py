"""One loss or several, functions or modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from midrib.task._parts.names import unique_names

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
LossLike: TypeAlias = LossFunction | Sequence[LossFunction] | Mapping[str, LossFunction] | None


class Losses(nn.Module):
    """Named losses; those that are modules are children, so that their state trains, moves and is saved.

    losses: one, several (named after themselves), a mapping from names, or None for a task that does not train.
    """

    def __init__(self, losses: LossLike) -> None:
        super().__init__()
        self._functions = dict(_named(losses))
        self._modules_by_name = nn.ModuleDict(
            {name: loss for name, loss in self._functions.items() if isinstance(loss, nn.Module)}
        )

    def __len__(self) -> int:
        return len(self._functions)

    def forward(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return each loss [] by its name, and their sum as "loss".

        outputs, targets: [rows, ...], as the losses expect them.  Raises ValueError without a loss.
        """
        if not self._functions:
            raise ValueError(
                f"got {len(targets)} targets, and this task has loss_fn=None and so cannot train: pass loss_fn=..."
            )
        losses = {name: loss(outputs, targets) for name, loss in self._functions.items()}
        if len(losses) == 1:
            return {"loss": next(iter(losses.values()))}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def _named(losses: LossLike) -> Mapping[str, LossFunction]:
    """Return the losses by name. Raises TypeError for a value that is not a function."""
    if losses is None:
        return {}
    named = losses if isinstance(losses, Mapping) else unique_names("loss_fn", losses)
    for name, loss in named.items():
        if not callable(loss):
            raise TypeError(
                f"loss_fn has {name!r}, which is {loss!r} of type {type(loss).__name__}, expected a function of "
                "(outputs, targets), a list of them, a mapping from names to them, or None"
            )
    return named
