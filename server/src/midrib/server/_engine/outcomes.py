"""From the report of a batch to the outcome of each item, and the totals of a backbone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from midrib.server._engine.compute import BatchReport, OutputError
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.item import Item, Outcome
from midrib.server._errors import public_error, text_of
from midrib.wire import Array


@dataclass
class WorkTotals:
    """The work of all replicas since the backbone was loaded.

    answered, failed: numbers of items.  rows: those of the answered items.  queue_s: the seconds that they waited.
    compute_s: the seconds that batches computed.  last: when a batch was last computed, on time.time.
    """

    batches: int = 0
    answered: int = 0
    failed: int = 0
    rows: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    last: float = 0.0

    def add(self, outcomes: Sequence[Outcome | Exception], compute_s: float) -> None:
        """Count one batch."""
        self.batches += 1
        self.compute_s += compute_s
        self.last = time.time()
        for outcome in outcomes:
            if isinstance(outcome, Outcome):
                self.answered += 1
                self.rows += len(outcome.rows)
                self.queue_s += outcome.queue_s
            else:
                self.failed += 1


def outcomes_of(
    batch: Sequence[Item], report: BatchReport, description: ServedDescription
) -> list[Outcome | Exception]:
    """Return the outcome of each item; equal errors of a batch are logged once, under one id."""
    results = report.results
    if len(results) != len(batch):
        results = [OutputError(f"the replica returned {len(results)} results for {len(batch)} items")] * len(batch)
    compute_s = report.finished - report.started
    public: dict[tuple[type[Exception], str], Exception] = {}
    outcomes: list[Outcome | Exception] = []
    for item, result in zip(batch, results, strict=True):
        error = _error(item, result, description.num_features)
        if error is None:
            outcomes.append(Outcome(cast(Array, result), max(0.0, report.started - item.arrived), compute_s))
            continue
        key = type(error), text_of(error)
        if key not in public:
            public[key] = public_error(error, f"backbone {description.name} failed on this item")
        outcomes.append(public[key])
    return outcomes


def _error(item: Item, result: Array | Exception, num_features: int) -> Exception | None:
    """Return the error of an item, or an OutputError if its rows break the contract; None if they are right."""
    if isinstance(result, Exception):
        return result
    # A gradient has the shape of its input, an embedding the width that the backbone declares.
    shape = item.arrays[0].shape if len(item.arrays) > 1 else (item.rows, num_features)
    if result.shape == shape and result.dtype.kind not in "iubOSU":
        return None
    return OutputError(f"the replica returned {result.dtype} {list(result.shape)}, expected floats {list(shape)}")
