"""Embed Ray datasets: `embed`, `Embedder` for `Dataset.map_batches`, and `write_embeddings`, which can be resumed."""

from midrib.ray._dataset import embed
from midrib.ray._embedder import Embedder
from midrib.ray._resumable import Written, write_embeddings

__all__ = ["Embedder", "Written", "embed", "write_embeddings"]
