"""A task to copy: classify rows of numbers, such as scikit-learn's data sets.

docs/task.md explains it. It adds a default backbone, the arguments of that backbone, and the data.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from midrib.task._features.backbone import BackboneLike
from midrib.task._tasks.classification import ClassificationTask


class Bunch(Protocol):
    """The result of scikit-learn's load_… functions: data [rows, num_features] and class indices target [rows]."""

    data: npt.NDArray[Any]
    target: npt.NDArray[Any]


class TemplateSKLearnClassifier(ClassificationTask):
    """Classify rows of numbers.

    num_features: the width of a row *in*.  backbone: a name in the namespace template/classification, or any
    other form that a task takes.  All other arguments are ClassificationTask's.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int | None = None,
        *,
        backbone: BackboneLike = "template/classification/mlp-128",
        **task_kwargs: Any,
    ) -> None:
        backbone_kwargs = {"num_features": num_features} if isinstance(backbone, str) and "://" not in backbone else {}
        # These backbones have random weights, so training them helps.
        finetuning = task_kwargs.pop("finetuning", "no_freeze" if backbone_kwargs else "freeze")
        super().__init__(
            backbone, num_classes, backbone_kwargs=backbone_kwargs or None, finetuning=finetuning, **task_kwargs
        )


class TemplateData(LightningDataModule):
    """Rows of numbers and their classes, for each stage that has data.

    train, val, test: (data [rows, num_features], class indices [rows]).  batch_size: rows of a batch.
    """

    def __init__(
        self,
        train: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        val: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        *,
        batch_size: int = 32,
    ) -> None:
        """Check the data. Raises ValueError without any."""
        super().__init__()
        stages = {"train": train, "val": val, "test": test}
        self._stages = {stage: _dataset(stage, *rows) for stage, rows in stages.items() if rows is not None}
        if not self._stages:
            raise ValueError(f"TemplateData got no data: pass {' or '.join(stages)}, each as (data, targets)")
        self.batch_size = batch_size
        # Only for these stages: Lightning calls every loader that it finds, and warns of an empty one.
        for stage in self._stages:
            setattr(self, f"{stage}_dataloader", partial(self._loader, stage))

    @classmethod
    def from_sklearn(
        cls, train: Bunch | None = None, val: Bunch | None = None, test: Bunch | None = None, *, batch_size: int = 32
    ) -> Self:
        """Take the results of scikit-learn's load_… functions."""
        return cls(_rows(train), _rows(val), _rows(test), batch_size=batch_size)

    @property
    def num_features(self) -> int:
        """The width of a row."""
        return int(next(iter(self._stages.values())).tensors[0].shape[1])

    @property
    def num_classes(self) -> int:
        """The number of classes in all stages."""
        return 1 + max(int(dataset.tensors[1].max()) for dataset in self._stages.values())

    def _loader(self, stage: str) -> DataLoader[Any]:
        return DataLoader(self._stages[stage], batch_size=self.batch_size, shuffle=stage == "train")


def _rows(bunch: Bunch | None) -> tuple[npt.ArrayLike, npt.ArrayLike] | None:
    return None if bunch is None else (bunch.data, bunch.target)


def _dataset(stage: str, data: npt.ArrayLike, targets: npt.ArrayLike) -> TensorDataset:
    """Return the dataset of a stage. Raises ValueError for shapes that do not fit together."""
    rows, classes = np.asarray(data, np.float32), np.asarray(targets, np.int64)
    if rows.ndim != 2 or classes.shape != rows.shape[:1]:
        raise ValueError(
            f"{stage} got data of shape {list(rows.shape)} and targets of shape {list(classes.shape)}, expected [rows, "
            "num_features] and [rows]"
        )
    return TensorDataset(torch.from_numpy(rows), torch.from_numpy(classes))
