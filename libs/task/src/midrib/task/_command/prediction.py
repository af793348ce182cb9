"""Predict the labels of files, folders and tables with an exported head: `midrib predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from midrib.task._data.columns import Columns
from midrib.task._data.kinds import kind_of
from midrib.task._data.locations import items_at
from midrib.task._data.module import value_of
from midrib.task._data.samples import Samples
from midrib.task._tasks.classification import ClassificationTask


@dataclass(frozen=True)
class PredictedRow:
    """One row's answer.

    row: its file, or its place in a table.  labels: the likeliest classes, the likeliest first; with multi-label heads
    those above one half.  probabilities: those of the labels.  error: why the row cannot be predicted, None if it can.
    backbone, revision: computed the features.
    """

    row: str
    labels: list[str]
    probabilities: list[float]
    error: str | None = None
    backbone: str = ""
    revision: str = ""


def predict(
    head: Path, paths: Sequence[Path], *, column: str | None = None, top: int = 1, batch_size: int = 32
) -> Iterator[PredictedRow]:
    """Yield an answer for each item at the paths, in order.

    head: a file that `midrib train` or Task.export wrote.  column: a table's column of inputs.  top: how many labels
    to give each row of a head that gives one.
    Raises CheckpointError if the file is not an exported task, ValueError for a path that holds nothing to predict.
    """
    task = ClassificationTask.load_export(head)
    kind = kind_of(task.input)
    backbone, revision = str(task.recipe.name), task.revision
    for path in paths:
        samples = items_at(path, task.input, Columns(input=column))
        reasons = {row: kind.problem(value_of(source)) for row, source in enumerate(samples.sources)}
        for start in range(0, len(samples), batch_size):
            batch = range(start, min(start + batch_size, len(samples)))
            for answer in _answers(task, samples, {row: reasons[row] for row in batch}, top):
                yield replace(answer, backbone=backbone, revision=revision)


def _answers(
    task: ClassificationTask, samples: Samples, reasons: dict[int, str | None], top: int
) -> Iterator[PredictedRow]:
    rows = [row for row, reason in reasons.items() if reason is None]
    answers: Any = iter(())
    if rows:
        answers = iter(task.predict([value_of(samples.sources[row]) for row in rows], output=_output(task, top)))
    for row, reason in reasons.items():
        if reason is not None:
            yield PredictedRow(samples.names[row], [], [], reason)
            continue
        answer = [(name, share) for name, share in next(answers) if not task.multi_label or share > 0.5]
        names, shares = [name for name, _ in answer], [round(share, 6) for _, share in answer]
        yield PredictedRow(samples.names[row], names, shares)


def _output(task: ClassificationTask, top: int) -> tuple[str, dict[str, int]]:
    return "top_k", {"k": task.num_classes if task.multi_label else min(top, task.num_classes)}
