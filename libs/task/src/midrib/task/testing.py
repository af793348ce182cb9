"""Checks that every task must pass, to inherit in one's own suite.

class TestMyTask(TaskTester):
    def make_task(self): return MyTask(...)
    def make_batch(self): return inputs, targets
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import unittest
import warnings
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from midrib.task._features.backbone import is_remote
from midrib.task._tasks.task import Task


class TaskTester(ABC):
    """A suite over one task: forward, fit, validate, test, predict, checkpoint, copies, export.

    Subclass it under a name that pytest collects, and give make_task and make_batch.
    """

    @abstractmethod
    def make_task(self) -> Task:
        """Return a new task, with a loss."""

    @abstractmethod
    def make_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of at least two rows: inputs [rows, ...] and targets [rows] or [rows, ...]."""

    def make_trainer(self, **options: Any) -> Trainer:
        """Return a Trainer that writes nothing and trains one epoch on the CPU."""
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return Trainer(**(quiet | options))

    def make_loader(self) -> DataLoader[Any]:
        """Return a loader of the batch's rows, two at a time."""
        return DataLoader(TensorDataset(*self.make_batch()), batch_size=2)

    def restore(self, path: Path) -> Task:
        """Return the task in a checkpoint. Override it to pass the arguments that a checkpoint cannot hold."""
        return type(self.make_task()).load_from_checkpoint(path)

    def test_forward_gives_a_row_for_each_item(self) -> None:
        """One row of outputs per row of inputs."""
        inputs, _ = self.make_batch()
        outputs = self.make_task().eval()(inputs)
        _check(len(outputs) == len(inputs), f"forward gave {len(outputs)} rows for {len(inputs)} items")

    def test_fit_changes_the_head_and_lowers_no_guard(self) -> None:
        """Training changes the trainable weights, and leaves a frozen backbone byte for byte."""
        task = self.make_task()
        before = _bytes(task)
        was_frozen = task.backbone_is_frozen
        loader = self.make_loader()
        self.make_trainer(max_epochs=2).fit(task, loader, loader)
        moved = {name for name, value in _bytes(task).items() if before[name] != value}
        _check(bool(moved), "fit changed nothing: does any parameter require a gradient?")
        backbone = {name for name in moved if name.startswith("backbone.")}
        _check(
            not (was_frozen and task.backbone_is_frozen and backbone), f"fit changed the frozen backbone: {backbone}"
        )

    def test_every_stage_logs_its_loss(self) -> None:
        """train_loss, val_loss and test_loss, finite."""
        task, trainer, loader = self.make_task(), self.make_trainer(), self.make_loader()
        trainer.fit(task, loader, loader)
        logged = dict(trainer.callback_metrics)
        trainer.test(task, loader, verbose=False)
        logged |= trainer.callback_metrics
        for name in ("train_loss", "val_loss", "test_loss"):
            _check(name in logged and bool(logged[name].isfinite()), f"{name} is {logged.get(name)}, expected a number")

    def test_predict_gives_a_row_for_each_item_with_every_output(self) -> None:
        """Every output that needs no arguments gives one row per item."""
        task = self.make_task()
        inputs, _ = self.make_batch()
        for output in filter(partial(_needs_no_arguments, task), task.available_outputs()):
            rows = task.predict(inputs, output=output, batch_size=2)
            _check(len(rows) == len(inputs), f"output {output!r} gave {len(rows)} rows for {len(inputs)} items")

    def test_the_trainer_evaluates_and_predicts(self) -> None:
        """Trainer.validate gives a finite val_loss, Trainer.predict every row once."""
        task, trainer, loader = self.make_task(), self.make_trainer(), self.make_loader()
        (results,) = trainer.validate(task, loader, verbose=False)
        _check(math.isfinite(results.get("val_loss", math.nan)), f"validate gave {results}, expected a finite val_loss")
        batches = trainer.predict(task, loader) or []
        rows = sum(len(batch) for batch in batches)
        expected = len(self.make_batch()[0])
        _check(rows == expected, f"Trainer.predict gave {rows} rows for {expected} items")

    def test_a_checkpoint_brings_it_back(self, tmp_path: Path) -> None:
        """Saved and loaded, it gives the same outputs."""
        task, trainer = self.make_task(), self.make_trainer(max_steps=1)
        trainer.fit(task, self.make_loader())
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        self._check_same(task, self.restore(tmp_path / "task.ckpt"), "loaded from its checkpoint")

    def test_a_copy_is_the_same_task(self) -> None:
        """deepcopy gives the same outputs."""
        task = self.make_task()
        self._check_same(task, copy.deepcopy(task), "deep copied")

    def test_it_travels_to_other_processes(self) -> None:
        """pickle gives the same outputs, which spawned workers and ranks need."""
        task = self.make_task()
        self._check_same(task, pickle.loads(pickle.dumps(task)), "pickled")  # noqa: S301 (its own bytes)

    def test_it_exports_to_one_graph(self) -> None:
        """torch.export takes it whole; skipped for a remote backbone, whose graph is on its server."""
        task = self.make_task().eval()
        if is_remote(task.backbone):
            raise unittest.SkipTest("a remote backbone has no graph here")
        inputs, _ = self.make_batch()
        exported = torch.export.export(task, (inputs,)).module()
        torch.testing.assert_close(exported(inputs), task(inputs))

    def test_it_traces_to_torchscript(self) -> None:
        """TorchScript, which runs without Python, gives the same outputs; skipped if the graph is on a server."""
        task = self.make_task().eval()
        if is_remote(task.backbone):
            raise unittest.SkipTest("a remote backbone has no graph here")
        inputs, _ = self.make_batch()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers export; many still deploy this
            traced: Any = task.to_torchscript(method="trace", example_inputs=inputs)
            torch.testing.assert_close(traced(inputs), task(inputs))

    def _check_same(self, task: Task, other: Task, how: str) -> None:
        inputs, _ = self.make_batch()
        first, second = (each.predict(inputs, output="logits") for each in (task, other))
        difference = float((first - second).abs().max())
        _check(difference <= 1e-5, f"{how}, the task gives other outputs: the largest difference is {difference:.3g}")


def _needs_no_arguments(task: Task, output: str) -> bool:
    _, *parameters = inspect.signature(task.outputs.get(output)).parameters.values()
    return all(
        each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )


def _check(holds: bool, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not holds:
        raise AssertionError(message)


def _bytes(task: Task) -> dict[str, bytes]:
    state = task.state_dict().items()
    return {name: value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for name, value in state}
