"""The columns of the input and of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from midrib.ray._values import KINDS, Kind
from midrib.wire import InvalidInputError

EMBEDDING: Final = "embedding"
ERROR: Final = "error"


@dataclass(frozen=True)
class ColumnOptions:
    """The columns of input and output.

    value: the column to embed.  keep: the columns to copy; None copies all but `value`.
    kind: how the values are read, see `Embedder`.
    Raises InvalidInputError for an unknown kind, or if a column to copy has the name of a column of the output.
    """

    value: str
    keep: tuple[str, ...] | None = None
    kind: Kind | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise InvalidInputError(f"kind is {self.kind!r}, expected None or one of {', '.join(KINDS)}")

    def copied(self, names: Sequence[str], id_column: str | None = None) -> list[str]:
        """Return the columns to copy of those that a table has.

        id_column: a column that must be among them. Raises InvalidInputError if the table lacks a column.
        """
        copied = [name for name in names if name != self.value] if self.keep is None else list(self.keep)
        for name in (self.value, *copied):
            if name not in names:
                raise InvalidInputError(f"the dataset has no column {name!r}: it has {', '.join(names) or 'none'}")
        for name in copied:
            if name in (EMBEDDING, ERROR):
                raise InvalidInputError(f"cannot copy column {name!r}: the output has a column of that name; rename it")
        if id_column is not None and id_column not in copied:
            raise InvalidInputError(
                f"the dataset has no column {id_column!r} to tell its rows apart: it has {', '.join(names)}. Pass "
                "id_column=, the name of another column than the embedded one"
            )
        return copied
