"""Inputs for `midrib bench`: no two of them are equal, and their lengths vary as those of real inputs do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from midrib.registry import AudioInput, InputSpec, TextInput

_DEFAULT_LENGTH: Final = 16  # for an axis of any length
# Lengths are log-normal: most texts are short and a few are long. The median is between a query and a paragraph.
_MEDIAN_WORDS, _MEDIAN_CLIP_S, _SPREAD = 16, 3.0, 0.6
_MAX_WORDS, _MAX_CLIP_S = 400, 20.0
_WORDS: Final = (
    "the a of and in to is for on with as by from that it was are this one which had not but have be their has "
    "small red house river market letter engine garden winter paper stone music window teacher field morning bread "
    "quick early simple heavy clear ancient open quiet strange modern runs builds finds carries opens crosses "
    "measures remembers protein railway candidate voltage harvest treaty galaxy kitchen insurance weather"
).split()


@dataclass(frozen=True)
class Payload:
    """The arguments of one call of `AsyncClient.embed`.  rows: their number in the call."""

    arguments: dict[str, Any]
    rows: int


class PayloadSource:
    """Makes payloads for a backbone.

    spec: its input. Texts are sent as strings and clips as samples; for images, prepared tensors.  rows: per payload.
    """

    def __init__(self, spec: InputSpec, rows: int, seed: int = 0) -> None:
        self._spec = spec
        self._rows = rows
        self._random = np.random.default_rng(seed)

    def make(self) -> Payload:
        """Return a payload that differs from all earlier ones."""
        return Payload(self._arguments(), self._rows)

    def _arguments(self) -> dict[str, Any]:
        if isinstance(self._spec, TextInput):
            return {"texts": [self._text() for _ in range(self._rows)]}
        if isinstance(self._spec, AudioInput):
            rate = self._spec.rate
            return {"audio": [self._noise((self._samples(rate),)) for _ in range(self._rows)], "rate": rate}
        tensor = self._spec.tensor
        shape = (self._rows, *(_DEFAULT_LENGTH if size is None else size for size in tensor.shape))
        if tensor.dtype.startswith(("int", "uint")):
            return {"x": self._random.integers(1, 100, shape).astype(tensor.dtype)}
        return {"x": self._noise(shape)}

    def _noise(self, shape: tuple[int, ...]) -> Any:
        return self._random.standard_normal(shape, dtype=np.float32) * 0.1

    def _text(self) -> str:
        words = round(min(_MAX_WORDS, max(1.0, self._log_normal(_MEDIAN_WORDS))))
        return " ".join(self._random.choice(_WORDS, words)) + f" {self._random.integers(10**9)}"

    def _samples(self, rate: int) -> int:
        return max(1, round(min(_MAX_CLIP_S, self._log_normal(_MEDIAN_CLIP_S)) * rate))

    def _log_normal(self, median: float) -> float:
        return float(self._random.lognormal(np.log(median), _SPREAD))
