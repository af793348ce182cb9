"""The workloads: models, rows per request, and numbers of concurrent callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KEYS = {
    "mlp": "benchmark/embedding/mlp",
    "vit": "benchmark/embedding/vit-tiny",
    "minilm": "text/embedding/all-minilm-l6-v2",
}
FEATURES = {"mlp": 256, "vit": 192, "minilm": 384}
SHAPES = {"mlp": (784,), "vit": (3, 224, 224)}
# The rows of all requests of a model together.
_DISTINCT_ROWS = {"mlp": 512, "vit": 64}

_SUBJECTS = (
    "The old captain",
    "A stranger from the coast",
    "My neighbour",
    "The youngest of the sisters",
    "The committee",
    "Nobody in the village",
    "A student of music",
    "The man with the umbrella",
)
_DEEDS = (
    "repaired the bicycle before breakfast.",
    "waited for the last train to the mountains.",
    "planted three apple trees behind the house.",
    "postponed the vote until Thursday.",
    "heard the owl call from the edge of the forest.",
    "bought bread and salted butter at the market.",
    "closed the bridge until further notice.",
    "sends a picture of the sea every morning.",
)
SENTENCES = tuple(f"{subject} {deed}" for deed in _DEEDS for subject in _SUBJECTS)


@dataclass(frozen=True)
class Setting:
    """A number of concurrent callers; each sends requests of `rows` rows, and waits for each answer."""

    rows: int
    concurrency: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.concurrency}"


@dataclass(frozen=True)
class Work:
    """A workload: one table of the report.

    models: the models of its servers; the settings call the first one.
    duration: the length of a measurement as a multiple of --seconds, for slow models.
    """

    name: str
    title: str
    models: tuple[str, ...]
    settings: tuple[Setting, ...]
    duration: float = 1.0

    @property
    def model(self) -> str:
        """The model that the settings call."""
        return self.models[0]


WORKS = (
    Work(
        "W1",
        "MLP 784-128-256, one row a request",
        ("mlp",),
        tuple(Setting(1, callers) for callers in (1, 16, 64, 256)),
    ),
    Work("W2", "MLP 784-128-256, 64 rows a request", ("mlp",), (Setting(64, 8),)),
    Work(
        "W3",
        "ViT-Tiny, 224 x 224 images",
        ("vit",),
        (Setting(1, 1), Setting(1, 8), Setting(1, 32), Setting(16, 2)),
        duration=2.0,
    ),
    Work("W4", "MiniLM, short sentences", ("minilm",), (Setting(1, 32), Setting(32, 2)), duration=1.5),
    Work(
        "W5",
        "MLP one row at a time, beside a bulk stream of ViT-Tiny batches of 16",
        ("mlp", "vit"),
        (Setting(1, 1),),
        duration=2.0,
    ),
)
BULK = Setting(16, 2)


def payloads(model: str, rows: int) -> list[Any]:
    """Return different requests of `rows` rows, the same ones every time: float32 arrays, or lists of sentences."""
    if model == "minilm":
        looped = SENTENCES + SENTENCES
        return [list(looped[start : start + rows]) for start in range(len(SENTENCES))]
    source = np.random.default_rng(0)
    count = max(1, _DISTINCT_ROWS[model] // rows)
    return [source.standard_normal((rows, *SHAPES[model]), dtype=np.float32) for _ in range(count)]


def row_bytes(model: str) -> tuple[int, int]:
    """Return the bytes of one input row and of one output row."""
    incoming = max(map(len, SENTENCES)) if model == "minilm" else 4 * int(np.prod(SHAPES[model]))
    return incoming, 4 * FEATURES[model]
