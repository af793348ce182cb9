"""The public kit of checks, over our own tasks; and that it finds the faults of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midrib.registry import ContractError
from midrib.task import ClassificationTask, EmbeddingTask, RegressionTask, Task
from midrib.task.template import TemplateSKLearnClassifier
from midrib.task.testing import TaskTester

ROWS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class TestClassification(TaskTester):
    """Over a local backbone and over a remote one."""

    @pytest.fixture(autouse=True)
    def _with(self, backbone: tuple[nn.Module, int]) -> None:
        self.backbone = backbone

    def make_task(self) -> Task:
        return ClassificationTask(self.backbone, 3, learning_rate=0.1)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS, torch.arange(6) % 3

    def restore(self, path: Path) -> Task:
        return ClassificationTask.load_from_checkpoint(path, backbone=self.backbone)


class TestMultiLabel(TestClassification):
    """Zeros and ones for each class."""

    def make_task(self) -> Task:
        return ClassificationTask(self.backbone, 3, multi_label=True, learning_rate=0.1)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS, (ROWS[:, :3] > 0).long()


class TestRegression(TestClassification):
    """One number for each item."""

    def make_task(self) -> Task:
        return RegressionTask(self.backbone, learning_rate=0.1)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS, ROWS.sum(dim=1)

    def restore(self, path: Path) -> Task:
        return RegressionTask.load_from_checkpoint(path, backbone=self.backbone)


class TestRegisteredBackbone(TaskTester):
    """By name, so that a checkpoint needs nothing again; everything trains."""

    def make_task(self) -> Task:
        torch.manual_seed(0)
        return TemplateSKLearnClassifier(8, 3, learning_rate=0.1)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS, torch.arange(6) % 3


def kit_over(task: Any) -> TaskTester:
    class Kit(TaskTester):
        def make_task(self) -> Task:
            return task  # type: ignore[no-any-return] # a class of any arguments

        def make_batch(self) -> tuple[Tensor, Tensor]:
            return ROWS, torch.arange(6) % 3

    return Kit()


class Pooled(ClassificationTask):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).mean(dim=0, keepdim=True)


def test_the_kit_finds_a_forward_that_loses_rows(local: tuple[nn.Module, int]) -> None:
    """It says how many came for how many."""
    with pytest.raises(AssertionError, match="forward gave 1 rows for 6 items"):
        kit_over(Pooled(local, 3)).test_forward_gives_a_row_for_each_item()


def test_the_kit_finds_a_task_that_does_not_train() -> None:
    """It says what to look for."""
    task = EmbeddingTask((nn.Linear(8, 3), 3), loss_fn=nn.CrossEntropyLoss(), finetuning="no_freeze", learning_rate=0.0)
    with pytest.raises(AssertionError, match="fit changed nothing"):
        kit_over(task).test_fit_changes_the_head_and_lowers_no_guard()


def test_the_kit_finds_a_prediction_that_loses_rows(local: tuple[nn.Module, int]) -> None:
    """The task itself refuses one row of a batch of two."""
    task = ClassificationTask(local, 3, output_transform=lambda prediction: prediction.logits[:1])
    with pytest.raises(ContractError, match=r"returned a tensor \[1, 3\] for a batch of 2"):
        kit_over(task).test_the_trainer_evaluates_and_predicts()


def test_the_kit_needs_a_task_and_a_batch() -> None:
    """A suite without a task or a batch cannot run."""

    class TestIncomplete(TaskTester):
        def make_task(self) -> Task:
            return EmbeddingTask((nn.Linear(8, 3), 3))

    with pytest.raises(TypeError, match="abstract class TestIncomplete .*make_batch"):
        TestIncomplete()  # type: ignore[abstract] # the error of this test
