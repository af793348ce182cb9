"""`MidribEmbeddings` for LangChain: `pip install 'midrib-integrations[langchain]'`."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from midrib.integrations._encoder import Encoder


class MidribEmbeddings(Embeddings):
    """A served text backbone as LangChain's embeddings.

    url: grpc://host:port/namespace/name.  options: those of `Encoder`, such as `prompts`, `truncate_dim` and `token`.
    The prompts "query" and "document" are put before queries and documents.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._encoder = Encoder(url, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return an embedding for each text, [texts, num_features]."""
        embeddings: list[list[float]] = self._encoder.encode_document(texts).tolist()
        return embeddings

    def embed_query(self, text: str) -> list[float]:
        """Return the embedding of a query, [num_features]."""
        embedding: list[float] = self._encoder.encode_query(text).tolist()
        return embedding
