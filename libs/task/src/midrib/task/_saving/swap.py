"""Replace a task's backbone by the same one in another place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from midrib.task._base import TaskBase
from midrib.task._features.backbone import (
    OpenedBackbone,
    RevisionError,
    check_revisions,
    example_batch,
    open_backbone,
    revision_of,
)


def swap(task: TaskBase, source: Any, kwargs: dict[str, Any], sample: Tensor | None, tolerance: float) -> None:
    """Replace the task's backbone by another one after checking that it computes the same embeddings.

    sample: a batch [rows, ...]; see `Persistent.to_remote`.  Raises RevisionError if they differ.
    """
    opened = open_backbone(source, kwargs, task.backbones)
    _check_same(task, opened, sample, tolerance)
    task.attach(opened)


def _check_same(task: TaskBase, other: OpenedBackbone, sample: Tensor | None, tolerance: float) -> None:
    """Raise RevisionError if two backbones differ in revision, or in the embeddings of sample [rows, ...]."""
    spec = task.input or other.input
    name = str(other.recipe.name)
    check_revisions(name, revision_of(other.module, spec), "this task's backbone", revision_of(task.backbone, spec))
    rows = sample if sample is not None else example_batch(spec)
    difference = float((_embed(task.backbone, rows) - _embed(other.module, rows)).abs().max())
    if not difference <= tolerance:
        raise RevisionError(
            f"backbone {name!r} gives other embeddings than this task's, although their revisions agree: the largest "
            f"difference is {difference:.3g}, tolerance {tolerance:.3g}; compare their compute dtypes, or pass "
            "tolerance=..."
        )


def _embed(module: nn.Module, rows: Tensor) -> Tensor:
    was_training = module.training
    module.eval()
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), rows.device)
    with torch.inference_mode():
        features: Tensor = module(rows.to(device)).float().cpu()
    module.train(was_training)
    return features


def name_in_url(url: str) -> str:
    """Return the backbone's name in grpc://host:port/namespace/name."""
    return url.partition("://")[2].partition("/")[2].partition("?")[0]
