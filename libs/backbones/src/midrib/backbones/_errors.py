"""Errors of loading and using a backbone, and the check of a call's items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import TypeVar

T = TypeVar("T")


class MediaError(ValueError):
    """An item of a batch that cannot be used, while the other items can.

    index: the item's place in the caller's list.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"item {index}: {message}")
        self.index = index
        self.problem = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[int, str]]:
        return type(self), (self.index, self.problem)


class InputKindError(TypeError):
    """Media of a kind that the backbone does not take, such as text for an image backbone."""


class WeightsError(RuntimeError):
    """Weights that cannot be found, read or fitted. They are never replaced by random ones."""


def as_list(kind: str, items: Iterable[T]) -> list[T]:
    """Return the items of a call as a list, also those of an array, a column or a generator.

    kind: the kind of one item, such as "text".
    Raises TypeError for one item in place of a list, and for sets and mappings: their order, or their keys, would be
    embedded.
    """
    single = isinstance(items, str | bytes | bytearray | memoryview | PathLike)
    if not single and not isinstance(items, Mapping | AbstractSet):
        try:
            return list(items)
        except TypeError:  # it cannot be iterated
            pass
    raise TypeError(
        f"got {items!r:.60} of type {type(items).__name__}, expected a list of {kind}s: pass a list, for one {kind} "
        f"[{kind}]"
    )
