"""Checks of the values of an input: token ids that the module cannot look up, and values that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from midrib.wire import Array, InvalidInputError


class IdRange(NamedTuple):
    """The token ids that a module looks up.

    first: 0 for a module without special ids; -1 if -1 stands for the token whose id is 0; -2 - last if -2 - id stands
    for a token that is read but not pooled.
    last: the largest id; None if it is not known.
    """

    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class ValueCheck:
    """Checks the values that one backbone takes.

    name: the backbone's name, for errors.  takes_ids: whether its rows are token ids.
    ids: those that the module looks up.
    finite: whether NaN and infinite values are refused.
    """

    name: str
    takes_ids: bool
    ids: IdRange
    finite: bool

    def check(self, array: Array, field: str) -> None:
        """Raise InvalidInputError if a value of the array, [rows, ...], is not one that the module takes.

        field: the place of the array in the request, for the error.
        """
        if self.takes_ids and array.size:
            self._check_ids(array, field)
        if self.finite and array.dtype.kind not in "iu":
            self._check_finite(array, field)

    def _check_ids(self, array: Array, field: str) -> None:
        """Raise InvalidInputError for ids outside the vocabulary: a process cannot use its GPU after them."""
        first, last = self.ids
        last = np.iinfo(np.int64).max if last is None else last
        least, largest = int(array.min()), int(array.max())
        if least < first or largest > last:
            wrong = least if least < first else largest
            raise InvalidInputError(
                f"{field} has the token id {wrong}, backbone {self.name!r} has {first}..{last}: use its own tokenizer",
                field=f"{field}.data",
            )

    def _check_finite(self, array: Array, field: str) -> None:
        """Raise InvalidInputError for NaN or infinite values in rows [rows, ...]."""
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InvalidInputError(
                f"{field} has NaN or infinite values, first in row {int(bad.argmax())}, and backbone "
                f"{self.name!r} takes none: replace them first",
                field=f"{field}.data",
            )
