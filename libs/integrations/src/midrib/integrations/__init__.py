"""Served text backbones for other libraries: `Encoder`, and a module for each framework.

`midrib.integrations.langchain.MidribEmbeddings`, `midrib.integrations.llama_index.MidribEmbedding` and
`midrib.integrations.chroma.MidribEmbeddingFunction` need their framework; `Encoder` needs numpy only.
"""

from midrib.integrations._encoder import Encoder

__all__ = ["Encoder"]
