"""Tasks that give each item one class, or several labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy

from midrib.task._data.module import DataModule
from midrib.task._features.backbone import BackboneLike, takes_width
from midrib.task._parts.losses import LossLike
from midrib.task._parts.metrics import MetricsLike
from midrib.task._parts.specs import branch
from midrib.task._tasks.outputs import OutputLike, Prediction
from midrib.task._tasks.task import Task

_THRESHOLD = 0.5
_TOP = 5
_TARGET_ERROR = re.compile(r"Target -?\d+ is out of bounds|0D or 1D target tensor expected")  # cross entropy's


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of targets [batch, classes]. Raises ValueError for values outside 0 to 1, which torch takes."""
    if targets.shape != logits.shape or not bool(((targets >= 0) & (targets <= 1)).all()):
        values = f", from {targets.min()} to {targets.max()}" if targets.numel() else ""
        raise ValueError(
            f"got multi-label targets of shape {list(targets.shape)}{values}, expected zeros and ones "
            f"{list(logits.shape)}: convert them, or pass a loss_fn for others"
        )
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


class ClassificationTask(Task):
    """Predict the class of each item, or with multi_label any number of labels.

    num_classes: not needed if labels are passed.  labels: the classes' names, in order.
    Targets are class indices [batch], labels, or class probabilities [batch, num_classes] (one-hot, mixup); with
    multi_label zeros and ones [batch, num_classes], or a sequence of labels for each item.
    loss_fn: cross entropy, or with multi_label binary cross entropy.  metrics: accuracy over all rows.
    output_transform: "classes" by default.  All other arguments are Task's.
    """

    outputs = branch(Task.outputs, "ClassificationTask")

    def __init__(
        self,
        backbone: BackboneLike,
        num_classes: int | None = None,
        *,
        labels: Sequence[str] | None = None,
        multi_label: bool = False,
        loss_fn: LossLike = None,
        metrics: MetricsLike = None,
        output_transform: OutputLike = "classes",
        **task_kwargs: Any,
    ) -> None:
        classes = _count(num_classes, labels)
        if metrics is None:
            metrics = _accuracy(classes, multi_label)
        super().__init__(
            backbone,
            num_outputs=classes,
            loss_fn=loss_fn or (_binary_cross_entropy if multi_label else F.cross_entropy),
            metrics=metrics,
            output_transform=output_transform,
            **task_kwargs,
        )
        self.num_classes = classes
        self.labels = [str(index) for index in range(classes)] if labels is None else list(labels)
        self.multi_label = multi_label

    @classmethod
    def from_data(cls, backbone: BackboneLike, data: DataModule, **task_kwargs: Any) -> Self:
        """Return a task with the classes of a data module, which is connected to it.

        task_kwargs: ClassificationTask's.  For rows of numbers, the width of a row reaches a backbone that needs it.
        Raises ValueError if the data has no labels, TypeError if it is not a data module or does not fit the backbone.
        """
        if not isinstance(data, DataModule):
            raise TypeError(
                f"got data={data!r:.80} of type {type(data).__name__}, expected a data module, such as "
                "ImageData.from_folder(...) or TextData.from_csv(...)"
            )
        if not data.labels:
            raise ValueError(f"{data} has no labels: a task needs training data")
        if data.width is not None and isinstance(backbone, str) and takes_width(backbone, cls.backbones):
            task_kwargs["backbone_kwargs"] = {"num_features": data.width, **(task_kwargs.get("backbone_kwargs") or {})}
        task = cls(backbone, labels=data.labels, multi_label=data.multi_label, **task_kwargs)
        data.connect(task)
        return task

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax over the classes, or with multi_label a sigmoid for each: [batch, num_classes]."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and targets of a batch, labels turned into class indices or, with multi_label, 0 and 1.

        Raises ValueError for a label that the task does not have, and for targets that are not classes.
        """
        inputs, targets = super().split_batch(batch)
        if not isinstance(targets, Tensor):
            targets = self._encoded(targets)
        if self.multi_label:
            return inputs, targets
        if targets.dim() == 2 and targets.shape[1] == self.num_classes:  # class probabilities, such as one-hot rows
            return inputs, targets.to(self.dtype)
        return inputs, _class_indices(targets) if targets.dim() == 1 and self.num_classes > 1 else targets

    def _step(self, stage: str, batch: Any, loader: int = 0) -> Tensor:
        """Return the loss of a batch. Raises ValueError for targets outside the classes, which torch does not name."""
        try:
            return super()._step(stage, batch, loader)
        except (IndexError, RuntimeError) as error:
            if not _TARGET_ERROR.match(str(error)):
                raise
            raise ValueError(
                f"got targets that are not classes of this task ({error}), expected indices [batch] from 0 to "
                f"{self.num_classes - 1}, or probabilities [batch, {self.num_classes}]: convert them, or pass "
                "num_classes=... or labels=[...] for all classes"
            ) from error

    def metric_inputs(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and integer targets; targets [batch, num_classes] become the likeliest class."""
        if self.multi_label:
            return self.probabilities(outputs), (targets >= _THRESHOLD).long()
        if targets.dim() == 2 and targets.shape[1] == self.num_classes > 1:
            return self.probabilities(outputs), targets.argmax(dim=-1)
        return self.probabilities(outputs), targets.long()

    def _encoded(self, targets: Sequence[Any]) -> Tensor:
        if not self.multi_label:
            return torch.tensor([self._index(target) for target in targets], device=self.device)
        encoded = torch.zeros(len(targets), self.num_classes, device=self.device)
        for row, labels in enumerate(targets):
            encoded[row, [self._index(label) for label in labels]] = 1
        return encoded

    def _index(self, target: Any) -> int:
        """Return the class index of a target. Raises ValueError for an unknown label."""
        if isinstance(target, str):
            if target not in self.labels:
                raise ValueError(
                    f"got the target {target!r}, expected one of {self.labels}: pass labels=[...] with every class name"
                )
            return self.labels.index(target)
        if isinstance(target, float | np.floating) and not float(target).is_integer():
            raise ValueError(f"got the target {target!r}, expected a class index or one of {self.labels}")
        return int(target)


def _class_indices(targets: Tensor) -> Tensor:
    """Return class indices [batch], which may be floats, as int64.  Raises ValueError unless they are whole."""
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        raise ValueError(
            f"got targets of {targets.dtype}, such as {targets[targets != targets.round()][0].item():.4g}, expected "
            "class indices: for class probabilities pass [batch, num_classes], for numbers use a RegressionTask"
        )
    return targets.long()


def _accuracy(classes: int, multi_label: bool) -> MulticlassAccuracy | MultilabelAccuracy:
    # The checks of torchmetrics cost as much as a small step, and the loss has checked the targets.
    if multi_label:
        return MultilabelAccuracy(classes, average="micro", validate_args=False)
    return MulticlassAccuracy(classes, average="micro", validate_args=False)


def _count(num_classes: int | None, labels: Sequence[str] | None) -> int:
    """Return the number of classes. Raises ValueError or TypeError for labels or numbers that do not fit."""
    if num_classes is None and labels is None:
        raise ValueError("a ClassificationTask needs num_classes=..., or labels=[...] with a name for each class")
    if labels is not None:
        _check_labels(labels)
    count = len(labels) if num_classes is None and labels is not None else num_classes
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"got num_classes={count!r}, expected a whole number of at least 1")
    if labels is not None and len(labels) != count:
        raise ValueError(f"got {len(labels)} labels for num_classes={count}: give one label for each class")
    return count


def _check_labels(labels: Collection[str]) -> None:
    """Raise TypeError or ValueError unless these are names in an order that is the same in every process."""
    is_list = isinstance(labels, Collection) and not isinstance(labels, str | Mapping | AbstractSet)
    if not is_list or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"got labels={labels!r:.80}, expected a list with the name of each class, a str")
    if not (names := Counter(labels)):
        raise ValueError(f"got labels={labels!r}, expected a list with the name of each class")
    if twice := [label for label, times in names.items() if times > 1]:
        raise ValueError(f"got {', '.join(map(repr, twice))} several times in labels: give each class another name")


def _task(prediction: Prediction) -> ClassificationTask:
    """Return the task of a prediction. Raises TypeError if it is not a ClassificationTask."""
    task = prediction.task
    if not isinstance(task, ClassificationTask):
        raise TypeError(f"got a {type(task).__name__}, expected a ClassificationTask: this output needs its classes")
    return task


@ClassificationTask.outputs(name="probabilities")
def probabilities(prediction: Prediction) -> Tensor:
    """Return the probability of each class: [batch, num_classes]."""
    return _task(prediction).probabilities(prediction.logits)


@ClassificationTask.outputs(name="classes")
def classes(prediction: Prediction) -> Tensor | list[list[int]]:
    """Return the index of the likeliest class: [batch]; with multi_label a list for each row."""
    if not _task(prediction).multi_label:
        return prediction.logits.argmax(dim=-1)
    chosen = probabilities(prediction) > _THRESHOLD
    return [row.nonzero().flatten().tolist() for row in chosen]


@ClassificationTask.outputs(name="labels")
def labels(prediction: Prediction) -> list[Any]:
    """Return the name of the likeliest class for each row; with multi_label a list of names."""
    names = _task(prediction).labels
    chosen = classes(prediction)
    if isinstance(chosen, Tensor):
        return [names[index] for index in chosen.tolist()]
    return [[names[index] for index in row] for row in chosen]


@ClassificationTask.outputs(name="top_k")
def top_k(prediction: Prediction, k: int | None = None) -> list[list[tuple[str, float]]]:
    """Return the k likeliest classes of each row, likeliest first: (name, probability).

    k: by default 5 at most.  Raises ValueError for k outside 1 to num_classes.
    """
    task = _task(prediction)
    count = min(_TOP, task.num_classes) if k is None else k
    if not 1 <= count <= task.num_classes:
        raise ValueError(f"top_k got k={k}, expected between 1 and num_classes={task.num_classes}")
    best = torch.topk(probabilities(prediction), count, dim=-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[(task.labels[i], p) for i, p in zip(*row, strict=True)] for row in rows]
