"""The evaluation of a head: accuracy, confusion between the classes, and the worst mistakes."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midrib.task._data.module import DataModule
from midrib.task._data.samples import Label, Samples, names_in
from midrib.task._tasks.classification import ClassificationTask

_WORST = 20
_SHOWN = 5
_LARGEST_PICTURE = 60


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrongly.  confidence: the probability of the wrong answer."""

    row: str
    label: list[str]
    predicted: list[str]
    confidence: float


@dataclass(frozen=True)
class Report:
    """The evaluation of a head on one stage of its data.

    revision: the backbone's.  rows: their number, by stage.  skipped: the rows that were left out, as (row, reason).
    accuracy: the share of rows with exactly the right labels.  baseline: the accuracy of always giving the most
    frequent answer.  recall: by class, the share of its rows that were found.
    confusion: [classes, classes], rows by true class and predicted class; empty for multi-label data.
    mistakes: the wrong rows, the most confident first.
    """

    backbone: str
    revision: str
    stage: str
    classes: list[str]
    rows: dict[str, int]
    skipped: list[tuple[str, str]]
    accuracy: float
    baseline: float
    recall: dict[str, float]
    confusion: list[list[int]]
    mistakes: list[Mistake]

    def summary(self) -> str:
        """Return the report as text of a few lines."""
        rows = ", ".join(f"{count} {stage}" for stage, count in self.rows.items())
        lines = [f"backbone {self.backbone}, revision {self.revision[:12]}"]
        lines += [f"{len(self.classes)} classes; rows: {rows}; left out: {len(self.skipped)}"]
        lines += [f"  {row}: {reason}" for row, reason in self.skipped[:_SHOWN]]
        lines.append(
            f"accuracy {self.accuracy:.3f} on the {self.stage} rows "
            f"({self.baseline:.3f} by always giving the most frequent answer)"
        )
        worst = sorted(self.recall.items(), key=lambda item: item[1])[:_SHOWN]
        lines.append("found of each class: " + ", ".join(f"{name} {recall:.3f}" for name, recall in worst))
        lines += [
            f"  {mistake.row}: {' '.join(mistake.label) or '-'}, predicted {' '.join(mistake.predicted) or '-'} "
            f"({mistake.confidence:.2f})"
            for mistake in self.mistakes[:_SHOWN]
        ]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write report.json and mistakes.csv, and confusion.png if matplotlib is installed."""
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=2))
        with (folder / "mistakes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", "predicted", "confidence"])
            for mistake in self.mistakes:
                names = ("|".join(mistake.label), "|".join(mistake.predicted))
                writer.writerow([mistake.row, *names, f"{mistake.confidence:.4f}"])
        if self.confusion and len(self.classes) <= _LARGEST_PICTURE:
            _draw(self.confusion, self.classes, folder / "confusion.png")


def evaluate(task: ClassificationTask, data: DataModule, stage: str) -> Report:
    """Return the report of a task on one stage of its data.  Raises MediaError for an item that cannot be read."""
    samples = data.stages[stage]
    probabilities: Tensor = task.predict(samples.sources, output="probabilities")
    predicted = _predicted(task, probabilities)
    mistakes = [
        Mistake(name, list(names_in(label)), answer, confidence)
        for name, label, answer, confidence in zip(
            samples.names, samples.labels, predicted, _confidences(task, probabilities, samples), strict=True
        )
        if set(names_in(label)) != set(answer)
    ]
    return Report(
        backbone=str(task.recipe.name),
        revision=task.revision,
        stage=stage,
        classes=list(task.labels),
        rows={name: len(part) for name, part in data.stages.items()},
        skipped=[(skipped.row, skipped.reason) for skipped in data.skipped],
        accuracy=1 - len(mistakes) / len(samples),
        baseline=Counter(map(names_in, samples.labels)).most_common(1)[0][1] / len(samples),
        recall=_recall(samples.labels, predicted),
        confusion=[] if task.multi_label else _confusion(task.labels, samples.labels, predicted),
        mistakes=sorted(mistakes, key=lambda mistake: -mistake.confidence)[:_WORST],
    )


def _predicted(task: ClassificationTask, probabilities: Tensor) -> list[list[str]]:
    if not task.multi_label:
        return [[task.labels[index]] for index in probabilities.argmax(dim=1).tolist()]
    return [[name for name, share in zip(task.labels, row, strict=True) if share > 0.5] for row in probabilities]


def _confidences(task: ClassificationTask, probabilities: Tensor, samples: Samples) -> list[float]:
    """Return the probability of each row's answer; for several labels, of its most wrong one: [rows]."""
    if not task.multi_label:
        return [float(row) for row in probabilities.amax(dim=1)]
    targets = torch.tensor([[name in names_in(label) for name in task.labels] for label in samples.labels])
    return [float(row) for row in (probabilities - targets.float()).abs().amax(dim=1)]


def _recall(labels: Sequence[Label], predicted: Sequence[list[str]]) -> dict[str, float]:
    rows = Counter(name for label in labels for name in names_in(label))
    right = Counter(
        name for label, answer in zip(labels, predicted, strict=True) for name in names_in(label) if name in answer
    )
    return {name: right[name] / count for name, count in sorted(rows.items())}


def _confusion(classes: Sequence[str], labels: Sequence[Label], predicted: Sequence[list[str]]) -> list[list[int]]:
    counts = Counter((*names_in(label), *answer) for label, answer in zip(labels, predicted, strict=True))
    return [[counts[(true, answer)] for answer in classes] for true in classes]


def _draw(confusion: list[list[int]], classes: Sequence[str], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    side = 2 + 0.4 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes: Any = figure.subplots()
    axes.imshow(confusion, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)))
    axes.set_xticklabels(classes, rotation=90)
    axes.set_yticklabels(classes)
    half = max(map(max, confusion)) / 2
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            axes.text(column, row, count, ha="center", va="center", color="white" if count > half else "black")
    figure.savefig(path)
