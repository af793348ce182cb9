"""A task that gives features, its own or another task's."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from midrib.task._features.backbone import BackboneLike
from midrib.task._parts.outputs import OutputLike
from midrib.task._tasks.task import Task


class EmbeddingTask(Task):
    """A backbone without a head: forward, predict and embed all give its features.

    Everything but the head is Task's; with a loss_fn and finetuning="no_freeze" the backbone itself can be trained.
    """

    def __init__(
        self, backbone: BackboneLike, *, output_transform: OutputLike = "embeddings", **task_kwargs: Any
    ) -> None:
        super().__init__(backbone, head=nn.Identity(), output_transform=output_transform, **task_kwargs)

    @classmethod
    def of(cls, task: Task, layer: str = "backbone") -> EmbeddingTask:
        """An embedder that is a copy of a trained task, up to one of its layers; training the task does not change it.

        layer: a name among available_layers(task).  Raises ValueError for another.
        """
        if layer not in available_layers(task):
            raise ValueError(f"got layer {layer!r}, expected one of {available_layers(task)}")
        backbone = copy.deepcopy(task.backbone)
        if layer == "backbone":
            return cls((backbone, task.num_features))
        cut = _HeadUpTo(copy.deepcopy(task.head), layer.partition(".")[2]).eval()
        with torch.no_grad():
            width = cut(torch.zeros(1, task.num_features, device=task.device)).shape[-1]
        return cls((nn.Sequential(backbone, cut), width))


def available_layers(task: Task) -> list[str]:
    """The layers at which an embedder of this task may end."""
    return ["backbone", *(f"head.{name}".removesuffix(".") for name, _ in task.head.named_modules())]


class _HeadUpTo(nn.Module):
    """A head that gives what one of its layers returns, averaged over positions if there are several."""

    def __init__(self, head: nn.Module, layer: str) -> None:
        super().__init__()
        self.head = head
        self._layer = layer

    def forward(self, features: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self.head.get_submodule(self._layer).register_forward_hook(lambda *call: seen.append(call[2]))
        try:
            self.head(features)
        finally:
            hook.remove()
        rows = seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]
        return rows.flatten(1, -2).mean(1) if rows.dim() > 2 else rows
