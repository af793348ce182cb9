"""Errors of loading and using a backbone."""

from __future__ import annotations


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
