"""The columns that are read from tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from midrib.registry import nearest
from midrib.wire import InvalidInputError

# A row as {column: value}, or the reason why it cannot be read.
Record: TypeAlias = dict[str, Any]
ReadRow: TypeAlias = Record | str
_OUTPUT: Final = ("id", "embedding")
_SHOWN_COLUMNS: Final = 50


@dataclass(frozen=True)
class InputColumns:
    """The columns to read.

    value: the texts or the encoded media.  id: the names of the rows, if the table has this column.
    kept: copied to the output.
    Raises InvalidInputError if a kept column is named like a column that the output has anyway, or is named twice.
    """

    value: str = "text"
    id: str = "id"
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.kept:
            if name in _OUTPUT:
                raise InvalidInputError(f"cannot keep column {name!r}: the output's own column has that name")
            if self.kept.count(name) > 1:
                raise InvalidInputError(f"column {name!r} is kept twice: name it once")

    def needed(self, names: Sequence[str], table: str) -> list[str]:
        """Return the columns to read of those that a table has.

        Raises InvalidInputError if one of them is missing, or is twice in the table.
        """
        for name in (self.value, *self.kept):
            if name not in names:
                raise InvalidInputError(f"{table} has no column {name!r}: it has {_shown(name, names)}")
        needed = [name for name in dict.fromkeys((self.id, self.value, *self.kept)) if name in names]
        for name in needed:
            if names.count(name) > 1:
                raise InvalidInputError(f"{table} has {names.count(name)} columns {name!r}: rename all but one of them")
        return needed


def _shown(name: str, names: Sequence[str]) -> str:
    """Return the columns of a table, the most similar ones first if it has many."""
    if len(names) <= _SHOWN_COLUMNS:
        return ", ".join(map(repr, names)) or "none"
    shown = list(dict.fromkeys([*nearest(name, names), *names]))[:_SHOWN_COLUMNS]
    return f"{', '.join(map(repr, shown))} and {len(names) - len(shown)} others"
