"""Checks of the values of an input: token ids that the module cannot look up, and values that are not finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midrib.wire import Array, InvalidInputError


@dataclass(frozen=True)
class IdRange:
    """The token ids that a text backbone takes, 0 for padding included.

    first: -1, which means the token 0, or 0 if the module does not know -1.
    last: the largest id that the module looks up; None if it is not known.
    """

    first: int
    last: int | None


@dataclass(frozen=True)
class ValueCheck:
    """Checks the values that one backbone takes.

    name: of the backbone, for errors.  ids: the token ids that it takes; None if its rows are not ids.
    finite: whether NaN and infinite values are refused.
    """

    name: str
    ids: IdRange | None
    finite: bool

    def check(self, array: Array, field: str) -> None:
        """Raise InvalidInputError if a value of the array, [rows, ...], is not one that the module takes.

        field: the place of the array in the request, for the error.
        """
        if self.ids is not None and array.size:
            self._check_ids(self.ids, array, field)
        if self.finite and array.dtype.kind not in "iu":
            self._check_finite(array, field)

    def _check_ids(self, ids: IdRange, array: Array, field: str) -> None:
        """Refuse ids outside the vocabulary: on a GPU they would make the process unable to use the device."""
        last = np.iinfo(np.int64).max if ids.last is None else ids.last
        least, largest = int(array.min()), int(array.max())
        if least < ids.first or largest > last:
            wrong = least if least < ids.first else largest
            raise InvalidInputError(
                f"{field} has the token id {wrong}, backbone {self.name!r} has {ids.first}..{last}: use its own "
                "tokenizer",
                field=f"{field}.data",
            )

    def _check_finite(self, array: Array, field: str) -> None:
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise InvalidInputError(
                f"{field} has NaN or infinite values, first in row {int(bad.argmax())}, and backbone "
                f"{self.name!r} takes none: replace them first",
                field=f"{field}.data",
            )
