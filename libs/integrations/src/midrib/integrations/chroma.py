"""`MidribEmbeddingFunction` for Chroma: `pip install 'midrib-integrations[chroma]'`."""

from __future__ import annotations

from typing import Any

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from midrib.integrations._encoder import Encoder


@register_embedding_function
class MidribEmbeddingFunction(EmbeddingFunction[Documents]):
    """A served text backbone as Chroma's embedding function. A collection remembers its URL, but not its token.

    url: grpc://host:port/namespace/name.  options: those of `Encoder`, such as `prompts`, `truncate_dim` and `token`.
    The prompts "query" and "document" are put before queries and documents.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._encoder = Encoder(url, **options)
        self._stored = {"url": url} | {name: options[name] for name in ("prompts", "truncate_dim") if name in options}

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma checks the name of the argument
        """Return an embedding for each document, each [num_features]."""
        return [np.asarray(row) for row in self._encoder.encode_document(input)]

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma checks the name of the argument
        """Return an embedding for each query, each [num_features]."""
        return [np.asarray(row) for row in self._encoder.encode_query(input)]

    @staticmethod
    def name() -> str:
        """Return the name by which a collection remembers this function."""
        return "midrib"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that a collection remembers."""
        return dict(self._stored)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MidribEmbeddingFunction:
        """Return the function of a collection that is opened again."""
        return MidribEmbeddingFunction(**config)
