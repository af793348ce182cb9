"""`MidribEmbedding` for LlamaIndex: `pip install 'midrib-integrations[llama-index]'`."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from midrib.integrations._encoder import Encoder


class MidribEmbedding(BaseEmbedding):
    """A served text backbone as LlamaIndex's embedding model.

    url: grpc://host:port/namespace/name.
    options: the fields of BaseEmbedding, such as `embed_batch_size`, and the options of `Encoder`.
    The prompts "query" and "document" are put before queries and documents.
    """

    _encoder: Encoder = PrivateAttr()

    def __init__(self, url: str, **options: Any) -> None:
        fields = {name: options.pop(name) for name in BaseEmbedding.model_fields.keys() & options.keys()}
        encoder = Encoder(url, **options)
        super().__init__(**{"model_name": encoder.name, **fields})
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex stores the class."""
        return "MidribEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        embeddings: list[list[float]] = self._encoder.encode_document(texts).tolist()
        return embeddings

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        embedding: list[float] = self._encoder.encode_query(query).tolist()
        return embedding

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)
