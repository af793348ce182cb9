"""Train a head on a folder or a table, evaluate it, and write it with a report: `midrib train`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import seed_everything

from midrib.registry import InputSpec
from midrib.task._command.lightning import TrainingCLI
from midrib.task._command.report import Report, evaluate
from midrib.task._data.columns import ColumnLike
from midrib.task._data.kinds import CLIPS, IMAGES, ROWS, TEXTS, Kind, kind_of
from midrib.task._data.locations import data_at
from midrib.task._data.module import DataModule
from midrib.task._data.sources import TableOptions
from midrib.task._features.backbone import open_backbone
from midrib.task._tasks.classification import ClassificationTask

HEAD = "head.safetensors"
_CONFIG = "training.yaml"
_EVALUATED = ("test", "val", "train")


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training.

    backbone: a name, or the URL of a served one.  backbone_kwargs: arguments of its loader.
    data: a folder with a folder for each class, or a table.
    out: the folder to write to.  val, test: data of the same form.  input, label, label_separator: columns of a table.
    val_split: the share of the rows that validate if val is None.  batch_size, seed: of the training.
    head, finetuning, learning_rate: as in Task.  epochs: the Trainer's max_epochs.  If None, `lightning` decides, or
    the defaults: linear, freeze, 0.01 and 20.
    lightning: arguments for LightningCLI, such as "--model.optimizer=sgd" or "--config=training.yaml".
    trainer: other defaults of Lightning's Trainer.
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
    head: str | None = None
    finetuning: str | None = None
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    seed: int = 0
    backbone_kwargs: Mapping[str, Any] = field(default_factory=dict)
    lightning: Sequence[str] = ()
    trainer: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """Return the arguments for LightningCLI: `lightning`, then the fields that are not None, which win."""
        fields = {
            "model.head": self.head,
            "model.finetuning": self.finetuning,
            "model.learning_rate": self.learning_rate,
            "trainer.max_epochs": self.epochs,
        }
        return [*self.lightning, *(f"--{name}={value}" for name, value in fields.items() if value is not None)]


def train(options: TrainingOptions) -> Report:
    """Train a head and return its report; head, report and training.yaml are written to options.out.

    Raises ValueError for options or data that cannot be used, FileExistsError if the folder already holds a head,
    NotADirectoryError or PermissionError if nothing can be written there, and the errors of opening the backbone.
    Options, folder and data are checked before the backbone is loaded.
    """
    check_out(options.out)
    cli = TrainingCLI(options.arguments(), _defaults(options))
    # Opened before the data, because the data is read by its kind of input. The task uses the same connection.
    served = open_backbone(options.backbone, None, ClassificationTask.backbones) if _is_served(options) else None
    data = _data(options, _kind(options.backbone) if served is None else kind_of(served.input))
    seed_everything(options.seed, verbose=False)
    with tempfile.TemporaryDirectory(prefix=f"midrib-features-{os.getpid()}-") as cache:
        task, trainer = cli.build(
            served or options.backbone, data, cache=cache, backbone_kwargs=options.backbone_kwargs
        )
        trainer.fit(task, datamodule=data)
        stage = next(stage for stage in _EVALUATED if stage in data.stages)
        report = evaluate(task, data, stage)
    options.out.mkdir(parents=True, exist_ok=True)
    task.export(options.out / HEAD)
    report.write(options.out)
    (options.out / _CONFIG).write_text(cli.text(), encoding="utf-8")
    return report


def check_out(out: Path) -> None:
    """Raise FileExistsError if the folder holds a head, NotADirectoryError or PermissionError if it cannot hold one."""
    if (out / HEAD).exists():
        raise FileExistsError(f"{out / HEAD} exists: pass another folder, or remove it")
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file, and the head needs a folder: pass another --out")
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()
    except OSError as error:
        raise PermissionError(f"{nearest} cannot be written to ({error.strerror}): pass another --out") from error


def _defaults(options: TrainingOptions) -> dict[str, Any]:
    trainer: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer |= {"max_epochs": 20, **options.trainer}
    model = {"learning_rate": 0.01, "finetuning": _finetuning(options)}
    return {f"trainer.{name}": value for name, value in trainer.items()} | {
        f"model.{name}": value for name, value in model.items()
    }


def _is_served(options: TrainingOptions) -> bool:
    return "://" in options.backbone


def _data(options: TrainingOptions, kind: Kind) -> DataModule:
    """Return the data of the command line. Raises ValueError for fewer than two classes, or wrong options."""
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


def _finetuning(options: TrainingOptions) -> str:
    """Return the default: a backbone with random weights trains too, which the templates for rows of numbers have."""
    return "no_freeze" if not _is_served(options) and _kind(options.backbone) is ROWS else "freeze"
