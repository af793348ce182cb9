"""Divide rows into a training and a validation part in which every class has its share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from midrib.task._data.samples import Label, names_in


def stratified_split(labels: Sequence[Label], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of the training rows and of the validation rows, each in ascending order.

    Of each class, `share` of the rows validate, rounded, but at least one if it has two, and at least one trains.
    A row with several labels counts for the rarest of them.  The same seed gives the same split.
    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"got val_split={share!r}, expected the share of the rows that validate, between 0 and 1")
    frequencies = Counter(name for label in labels for name in names_in(label))
    groups: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        groups[min(names_in(label), key=lambda name: (frequencies[name], name), default="")].append(row)
    generator = np.random.default_rng(seed)
    validation: set[int] = set()
    for name in sorted(groups):
        rows = groups[name]
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        validation.update(int(row) for row in generator.permutation(rows)[:count])
    return [row for row in range(len(labels)) if row not in validation], sorted(validation)
