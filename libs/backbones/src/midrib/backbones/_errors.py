"""What can go wrong with a backbone, grouped by who must act."""

from __future__ import annotations


class MediaError(ValueError):
    """One item of a batch is not usable; its neighbours are.

    index: the item's place in the list that was given.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"item {index}: {message}")
        self.index = index
        self.problem = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[int, str]]:
        return type(self), (self.index, self.problem)


class InputKindError(TypeError):
    """The backbone takes another kind of media, say text where images were given."""


class WeightsError(RuntimeError):
    """Pretrained weights were asked for and cannot be had; never replaced by random ones."""
