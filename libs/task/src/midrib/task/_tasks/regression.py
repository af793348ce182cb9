"""Tasks that predict one number, or several, for each item."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor
from torchmetrics import MeanAbsoluteError

from midrib.task._features.backbone import BackboneLike
from midrib.task._parts.losses import LossLike
from midrib.task._parts.metrics import MetricsLike
from midrib.task._tasks.task import Task


class RegressionTask(Task):
    """Predict num_targets numbers for each item.

    Targets are [batch, num_targets], or [batch] if num_targets is 1; outputs have the same shape.
    loss_fn: mean squared error.  metrics: mean absolute error.  All other arguments are Task's.
    """

    def __init__(
        self,
        backbone: BackboneLike,
        num_targets: int = 1,
        *,
        loss_fn: LossLike = None,
        metrics: MetricsLike = None,
        **task_kwargs: Any,
    ) -> None:
        super().__init__(
            backbone,
            num_outputs=num_targets,
            loss_fn=loss_fn or F.mse_loss,
            metrics=MeanAbsoluteError() if metrics is None else metrics,
            **task_kwargs,
        )
        self.num_targets = num_targets

    def forward(self, inputs: Any) -> Tensor:
        """Return the predicted numbers: [batch, num_targets], or [batch] if num_targets is 1."""
        outputs = super().forward(inputs)
        return outputs.squeeze(-1) if self.num_targets == 1 else outputs

    def split_batch(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the inputs, and the targets [rows] or [rows, num_targets] in the type of the outputs.

        Raises ValueError for targets of another shape.
        """
        inputs, targets = super().split_batch(batch)
        expected = (len(inputs),) if self.num_targets == 1 else (len(inputs), self.num_targets)
        if tuple(targets.shape) not in (expected, (len(inputs), self.num_targets)):
            raise ValueError(f"got targets of shape {list(targets.shape)}, expected {list(expected)}")
        return inputs, targets.reshape(expected).to(self.dtype)
