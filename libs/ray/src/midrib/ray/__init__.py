"""Embed Ray datasets: `embed` for a whole dataset, `Embedder` for `Dataset.map_batches`."""

from midrib.ray._dataset import embed
from midrib.ray._embedder import Embedder

__all__ = ["Embedder", "embed"]
