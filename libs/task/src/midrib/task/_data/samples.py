"""The rows of one stage: a source and a label each, and the rows that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from midrib.registry._selection import natural
from midrib.task._features.media import is_missing

# A class name; several for multi-label data; None for rows to predict.
Label: TypeAlias = str | tuple[str, ...] | None


class Skipped(NamedTuple):
    """A row that was left out: its file, or its place in a table, and the reason."""

    row: str
    reason: str


@dataclass(frozen=True)
class Samples:
    """Rows with their labels.

    sources: a path, a text, an image, a clip or numbers for each row.  labels: one for each row.
    names: the file, or the place in a table, of each row.  skipped: the rows that were left out.
    """

    sources: Sequence[Any]
    labels: Sequence[Label]
    names: Sequence[str]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def classes(self) -> list[str]:
        """The class names, each once, in natural order."""
        return sorted({name for label in self.labels for name in names_in(label)}, key=natural)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each class."""
        counts = Counter(name for label in self.labels for name in names_in(label))
        return {name: counts[name] for name in self.classes}

    def select(self, rows: Iterable[int]) -> Samples:
        """Return some of the rows, without those that were left out."""
        chosen = list(rows)
        return Samples(
            [self.sources[row] for row in chosen],
            [self.labels[row] for row in chosen],
            [self.names[row] for row in chosen],
        )

    def without(self, reasons: Mapping[int, str]) -> Samples:
        """Leave out rows.  reasons: keyed by the rows' indices."""
        kept = self.select(row for row in range(len(self)) if row not in reasons)
        skipped = tuple(Skipped(self.names[row], reason) for row, reason in sorted(reasons.items()))
        return replace(kept, skipped=self.skipped + skipped)


def names_in(label: Label) -> tuple[str, ...]:
    """Return the class names in a label."""
    return () if label is None else (label,) if isinstance(label, str) else label


def label_of(value: Any) -> str | tuple[str, ...]:
    """Return a value as a class name, or a list of values as several.

    Numbers become their digits, 3.0 becomes "3".  Raises ValueError if the value is missing.
    """
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return tuple(sorted((_name(part) for part in value), key=natural))
    return _name(value)


def _name(value: Any) -> str:
    """Return the label. Raises ValueError if there is none."""
    value = value.item() if hasattr(value, "item") else value  # a scalar of numpy or torch
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise ValueError("it has no label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def labelled(sources: Sequence[Any], labels: Sequence[Any] | None, names: Sequence[str]) -> Samples:
    """Join sources with raw labels; rows without a label are left out.  labels: None for rows to predict.

    Raises ValueError if their numbers differ, or if some rows have one label and others a list.
    """
    if labels is None:
        return Samples(sources, [None] * len(sources), names)
    if hasattr(labels, "shape") and len(labels.shape) != 1:
        raise ValueError(
            f"got labels of shape {list(labels.shape)}, expected [rows]: pass a class name or index for each row, or "
            "for multi-label data a list of them"
        )
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    if len(labels) != len(sources):
        raise ValueError(f"got {len(sources)} rows and {len(labels)} labels, expected a label for each row")
    normal, reasons = _normal(labels)
    if len({type(label) for label in normal if label is not None}) > 1:
        raise ValueError(
            f"some of {len(normal)} rows have one label and others a list of them: give every row a list, or none"
        )
    return Samples(sources, normal, names).without(reasons)


def _normal(values: Sequence[Any]) -> tuple[list[Label], dict[int, str]]:
    """Return the label of each row, None if it has none, and by the indices of those rows the reasons."""
    labels: list[Label] = []
    reasons: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            labels.append(label_of(value))
        except ValueError as error:
            labels.append(None)
            reasons[row] = str(error)
    return labels, reasons
