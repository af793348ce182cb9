"""Train a head on a folder or a table, evaluate it, and write it with a report: `midrib train`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer, seed_everything

from midrib.registry import InputSpec
from midrib.task._command.progress import EpochBars
from midrib.task._command.report import Report, evaluate
from midrib.task._data.columns import ColumnLike
from midrib.task._data.kinds import CLIPS, IMAGES, ROWS, TEXTS, Kind, kind_of
from midrib.task._data.locations import data_at
from midrib.task._data.module import DataModule
from midrib.task._data.sources import TableOptions
from midrib.task._features.backbone import open_backbone
from midrib.task._tasks.classification import ClassificationTask

HEAD = "head.safetensors"
_EVALUATED = ("test", "val", "train")


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training.

    backbone: a name, or the URL of a served one.  data: a folder with a folder for each class, or a table.
    out: the folder to write to.  val, test: data of the same form.  input, label, label_separator: columns of a table.
    val_split: the share of the rows that validate if val is None.  head, finetuning, learning_rate: as in Task.
    epochs, batch_size, seed: of the training.  trainer: further arguments of Lightning's Trainer.
    """

    backbone: str
    data: Path
    out: Path
    val: Path | None = None
    test: Path | None = None
    input: ColumnLike = None
    label: ColumnLike = None
    label_separator: str | None = None
    val_split: float = 0.2
    head: str = "linear"
    finetuning: str = "freeze"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.01
    seed: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)


def train(options: TrainingOptions) -> Report:
    """Train a head and return its report; head and report are written to options.out.

    Raises ValueError for data that cannot be used, FileExistsError if the folder already holds a head, and the errors
    of opening the backbone. Data and folder are checked before the backbone is loaded.
    """
    if (options.out / HEAD).exists():
        raise FileExistsError(f"{options.out / HEAD} exists: pass another folder, or remove it")
    # A served backbone is connected to once: its kind of data is needed first.
    served = open_backbone(options.backbone, None, ClassificationTask.backbones) if _is_served(options) else None
    data = _data(options, _kind(options.backbone) if served is None else kind_of(served.input))
    seed_everything(options.seed, verbose=False)
    with tempfile.TemporaryDirectory(prefix="midrib-features-") as cache:
        task = ClassificationTask.from_data(
            served or options.backbone,
            data,
            head=options.head,
            finetuning=_finetuning(options, data),
            learning_rate=options.learning_rate,
            cache=cache,
        )
        defaults: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        shows_progress = options.trainer.get("enable_progress_bar", True)
        defaults["callbacks"] = [EpochBars()] if shows_progress else []
        Trainer(max_epochs=options.epochs, **{**defaults, **options.trainer}).fit(task, datamodule=data)
        stage = next(stage for stage in _EVALUATED if stage in data.stages)
        report = evaluate(task, data, stage)
    options.out.mkdir(parents=True, exist_ok=True)
    task.export(options.out / HEAD)
    report.write(options.out)
    return report


def _is_served(options: TrainingOptions) -> bool:
    return "://" in options.backbone


def _data(options: TrainingOptions, kind: Kind) -> DataModule:
    columns: TableOptions = {"val_split": options.val_split, "seed": options.seed, "batch_size": options.batch_size}
    if not options.data.is_dir():
        columns |= {"input": options.input, "label": options.label, "label_separator": options.label_separator}
    elif options.input or options.label or options.label_separator:
        raise ValueError(f"{options.data} is a folder, which has no columns: leave out the options of a table")
    data = data_at(options.data, kind, val=options.val, test=options.test, options=columns)
    if len(data.labels) < 2:
        raise ValueError(f"{options.data} has the classes {data.labels}, expected at least two")
    return data


def _kind(backbone: str) -> Kind:
    """Return the kind of data of a registered backbone by its declaration, or by the data type of its key."""
    registry = ClassificationTask.backbones
    entry = registry.get(backbone, with_metadata=True)
    spec: InputSpec | None = entry.input
    if spec is not None:
        return kind_of(spec)
    words = {"image": IMAGES, "text": TEXTS, "audio": CLIPS, "sentence-transformers": TEXTS, "transformers": TEXTS}
    return words.get(entry.key.partition("/")[0], ROWS)


def _finetuning(options: TrainingOptions, data: DataModule) -> str:
    """Train all of a backbone with random weights, which the templates for rows of numbers are."""
    is_template = data.kind is ROWS and not _is_served(options)
    return "no_freeze" if is_template and options.finetuning == "freeze" else options.finetuning
