"""The LightningDataModule that all kinds of data share: stages of samples, read and prepared batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, TypedDict

import numpy as np
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it has no types

from midrib.registry._place import caller_frame
from midrib.registry._selection import natural
from midrib.task._base import TaskBase
from midrib.task._data.kinds import ROWS, Kind, kind_of
from midrib.task._data.samples import Label, Samples, Skipped
from midrib.task._data.splits import stratified_split
from midrib.task._data.tables import DatasetValue
from midrib.task._features.preparation import Preparation, Transform

_SHOWN = 3
_SLOW_S = 2.0
# The options that are numbers: name, type, and the type in words. A val_split of None counts as 0.
_NUMBERS = (
    ("val_split", (Real, type(None)), "number between 0 and 1"),
    ("seed", (Integral,), "whole number"),
    ("batch_size", (Integral,), "whole number"),
    ("num_workers", (Integral,), "whole number"),
)


class DataOptions(TypedDict, total=False):
    """The options of every data module.

    val_split: the share of the training rows that validate if no validation data is given; 0: none. Default 0.2.
    seed: makes that split; default 0.  batch_size: default 32.  num_workers: processes that read; default 0, this one.
    transform: changes each training item before the backbone's preprocessing, such as an augmentation: a uint8 tensor
    [3, height, width] for images, a str, or samples.  eval_transform: the same for all other stages.
    check: read every item once at the start, and leave out those that cannot be used; default True.
    """

    val_split: float
    seed: int
    batch_size: int
    num_workers: int
    transform: Transform | None
    eval_transform: Transform | None
    check: bool


@dataclass(frozen=True)
class _Options:
    val_split: float = 0.2
    seed: int = 0
    batch_size: int = 32
    num_workers: int = 0
    transform: Transform | None = None
    eval_transform: Transform | None = None
    check: bool = True

    def __post_init__(self) -> None:
        """Raise TypeError for an option that is not a number, ValueError for a batch of less than one row."""
        for name, kind, expected in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} got {value!r} of type {type(value).__name__}, expected a {expected}")
        if self.batch_size < 1:
            raise ValueError(f"got batch_size={self.batch_size}, expected at least 1")


class DataModule(LightningDataModule):
    """Rows with labels, for each stage that has data.

    Make one by from_folder and its like. The task whose Trainer uses it prepares the items as its backbone needs them.
    labels: the class names of all stages, in natural order.  multi_label: whether a row has several.
    stages: the Samples of "train", "val", "test" and "predict".  skipped: the rows that were left out, and why.
    """

    kind: ClassVar[Kind]

    def __init__(self, stages: Mapping[str, Samples], options: DataOptions) -> None:
        """Check the options. Raises TypeError or ValueError for wrong options, or for a stage without rows."""
        super().__init__()
        if unknown := sorted(options.keys() - _Options.__dataclass_fields__.keys()):
            raise TypeError(
                f"{type(self).__name__} got the options {', '.join(unknown)}, expected among "
                f"{', '.join(_Options.__dataclass_fields__)}"
            )
        self.options = _Options(**options)
        checked = {stage: self._checked(samples) for stage, samples in stages.items()}
        self.skipped: tuple[Skipped, ...] = tuple(row for samples in checked.values() for row in samples.skipped)
        if not checked or not all(map(len, checked.values())):
            raise ValueError(self._no_rows(checked))
        if self.kind is ROWS:
            _require_one_width(checked)
        self.stages = _with_validation(checked, self.options)
        self.labels = sorted({name for samples in self.stages.values() for name in samples.classes}, key=natural)
        self.multi_label = any(isinstance(label, tuple) for part in self.stages.values() for label in part.labels)
        self._preparation: Callable[[Transform | None], Preparation] | None = None
        _report(self.skipped, sum(map(len, checked.values())))
        # Only for stages with data: Lightning calls each loader that it finds, and warns of an empty one.
        for stage in self.stages:
            setattr(self, f"{stage}_dataloader", partial(self.loader, stage))

    def setup(self, stage: str) -> None:  # noqa: ARG002 (Lightning's signature)
        """Prepare the items as the task of the Trainer needs them."""
        if self.trainer is not None:
            self.connect(self.trainer.lightning_module)

    def connect(self, task: LightningModule) -> None:
        """Prepare the items as this task's backbone needs them; a Trainer calls it through setup.

        Raises TypeError if it is not a Task, or its backbone takes another kind of data.
        """
        if not isinstance(task, TaskBase):
            raise TypeError(f"{type(self).__name__} got a {type(task).__name__}, expected a midrib.task.Task")
        if task.input is not None and kind_of(task.input) is not self.kind:
            raise TypeError(
                f"{type(self).__name__} gives {self.kind.name}, and the backbone {task.recipe.name!r} takes "
                f"{kind_of(task.input).name}: use a backbone of that kind"
            )
        self._preparation = task.preparation

    def loader(self, stage: str) -> DataLoader[Any]:
        """Return the loader of "train", "val", "test" or "predict": batches (inputs, labels), or inputs alone.

        Raises ValueError if the stage has no data, or no task is connected.
        """
        if stage not in self.stages:
            raise ValueError(f"this {type(self).__name__} has no {stage} data: it has {', '.join(self.stages)}")
        if self._preparation is None:
            raise ValueError(f"no task is connected: call {type(self).__name__}.connect(task), or use a Trainer")
        transform = self.options.transform if stage == "train" else self.options.eval_transform
        rows, size = len(self.stages[stage]), self.options.batch_size
        return DataLoader(
            _Rows(self.stages[stage]),
            batch_size=size,
            shuffle=stage == "train",
            # A batch norm cannot train on a single row. Shuffled, the row that is left out differs in each epoch.
            drop_last=stage == "train" and rows > size > 1 and rows % size == 1,
            num_workers=self.options.num_workers,
            persistent_workers=self.options.num_workers > 0,
            collate_fn=_Collate(self._preparation(transform)),
        )

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The number of rows of each class, by stage."""
        return {stage: samples.counts for stage, samples in self.stages.items()}

    @property
    def width(self) -> int | None:
        """The width of a row of numbers; None for other kinds of data."""
        first = next(iter(self.stages.values())).sources[0]
        return int(np.asarray(value_of(first)).shape[-1]) if self.kind is ROWS else None

    def __repr__(self) -> str:
        rows = ", ".join(f"{stage}={len(samples)}" for stage, samples in self.stages.items())
        return f"{type(self).__name__}({rows}, classes={len(self.labels)}, skipped={len(self.skipped)})"

    def __str__(self) -> str:
        return repr(self)

    def _checked(self, samples: Samples) -> Samples:
        if not self.options.check:
            return samples
        with ThreadPoolExecutor() as pool:  # decoders release the GIL
            reasons = pool.map(lambda source: self.kind.problem(value_of(source)), samples.sources)
            bar = tqdm(reasons, total=len(samples), desc="check", unit="rows", delay=_SLOW_S)
            return samples.without({row: reason for row, reason in enumerate(bar) if reason is not None})

    def _no_rows(self, stages: Mapping[str, Samples]) -> str:
        if not stages:
            return f"{type(self).__name__} got no data: pass train=, val=, test= or predict="
        empty = ", ".join(stage for stage, samples in stages.items() if not len(samples))
        return f"{type(self).__name__} has no rows for {empty}: {_listed(self.skipped) or 'there are none'}"


def value_of(source: Any) -> Any:
    """Return the value of a source: one of a Hugging Face dataset is read, all others are returned unchanged."""
    return source.read() if isinstance(source, DatasetValue) else source


class _Rows(Dataset[tuple[Any, Label]]):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[Any, Label]:
        return value_of(self._samples.sources[row]), self._samples.labels[row]


@dataclass(frozen=True)
class _Collate:
    """Turns rows into a batch; without labels, into its inputs."""

    prepare: Preparation

    def __call__(self, rows: Sequence[tuple[Any, Label]]) -> Any:
        inputs = self.prepare([source for source, _ in rows])
        labels = [label for _, label in rows]
        return inputs if any(label is None for label in labels) else (inputs, labels)


def _require_one_width(stages: Mapping[str, Samples]) -> None:
    """Raise ValueError, naming a row, unless all rows of numbers have one shape."""
    rows = [
        (name, np.shape(value_of(row)))
        for part in stages.values()
        for name, row in zip(part.names, part.sources, strict=True)
    ]
    for name, shape in rows:
        if shape != rows[0][1]:
            raise ValueError(
                f"{name} has the shape {list(shape)}, and {rows[0][0]} has {list(rows[0][1])}: make them equal"
            )


def _with_validation(stages: Mapping[str, Samples], options: _Options) -> dict[str, Samples]:
    if "train" not in stages or "val" in stages or not options.val_split:
        return dict(stages)
    train = stages["train"]
    training, validation = stratified_split(train.labels, options.val_split, options.seed)
    if not validation:  # one row of each class
        return dict(stages)
    return {"train": train.select(training), "val": train.select(validation)} | {
        stage: samples for stage, samples in stages.items() if stage != "train"
    }


def _report(skipped: Sequence[Skipped], kept: int) -> None:
    if skipped:
        _, distance = caller_frame("midrib")
        warnings.warn(
            f"{len(skipped)} of {len(skipped) + kept} rows are left out: {_listed(skipped)}; see data.skipped",
            stacklevel=distance + 1,
        )


def _listed(skipped: Sequence[Skipped]) -> str:
    shown = "; ".join(f"{row}: {reason}" for row, reason in skipped[:_SHOWN])
    return shown + (f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else "")
