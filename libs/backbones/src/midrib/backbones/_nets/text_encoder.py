"""Networks over token ids, one row of features a text.

All take ids [rows, tokens], int64, 0 where padded. Ids beyond the vocabulary and rows that are too long are a
ValueError, for on a GPU they would otherwise end the process's use of it. A row of padding alone embeds to zeros.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from midrib.backbones._texts import FastTokenizer
from midrib.registry import TextInput

Pooling: TypeAlias = Literal["mean", "cls", "max"]


class _TokenNetwork(nn.Module):
    """What all have in common: the tokeniser, its bounds, and the padding."""

    def __init__(self, tokenizer: FastTokenizer, max_tokens: int, vocabulary: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.input = TextInput(max_tokens)
        self.vocabulary = vocabulary

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides the weights, for the revision."""
        return dict(self.tokenizer.settings)

    def forward(self, ids: Tensor) -> Tensor:
        """Return [rows, width]."""
        self._check(ids)
        mask = ids != 0
        # Attention over nothing is not a number: an empty row attends to its first padding, and is zeroed after.
        seen = mask.clone()
        seen[:, :1] |= ~mask.any(1, keepdim=True)
        own = (ids - self.tokenizer.shift).clamp(min=0)
        return self._features(own, seen) * mask.any(1, keepdim=True)

    @abstractmethod
    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return [rows, width], for the network's own ids; the mask keeps at least one token of each row."""

    def _check(self, ids: Tensor) -> None:
        last = self.vocabulary - 1 + self.tokenizer.shift
        if ids.shape[1] > self.input.max_tokens:
            raise ValueError(
                f"got rows of {ids.shape[1]} tokens, expected at most {self.input.max_tokens}: truncate them"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > last):
            raise ValueError(
                f"got ids from {int(ids.min())} to {int(ids.max())}, expected 0 to {last}: "
                "use this backbone's tokenizer"
            )


class TextEncoder(_TokenNetwork):
    """A transformer of the `transformers` library, pooled over the tokens of each text.

    Source of the pooling: Reimers & Gurevych 2019, section 3.
    """

    def __init__(
        self, encoder: Any, tokenizer: FastTokenizer, *, max_tokens: int, pooling: Pooling, normalize: bool
    ) -> None:
        super().__init__(tokenizer, max_tokens, encoder.config.vocab_size)
        self.encoder = encoder
        self.pooling = pooling
        self.normalize = normalize

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides the weights, for the revision."""
        return {"pooling": self.pooling, "normalize": self.normalize, **super().settings}

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        features = _pool(tokens, mask, self.pooling)
        return nn.functional.normalize(features) if self.normalize else features


class SentenceEncoder(_TokenNetwork):
    """A pipeline of sentence-transformers: its own transformer, pooling, projections and normalisation."""

    def __init__(self, pipeline: nn.Module, tokenizer: FastTokenizer, *, max_tokens: int, vocabulary: int) -> None:
        super().__init__(tokenizer, max_tokens, vocabulary)
        self.pipeline = pipeline

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self.pipeline({"input_ids": ids, "attention_mask": mask.long()})["sentence_embedding"]
        return features


class StaticTextEncoder(_TokenNetwork):
    """A table of word vectors, averaged over the tokens of each text; no token sees another."""

    def __init__(self, vectors: Tensor, tokenizer: FastTokenizer, *, max_tokens: int, normalize: bool) -> None:
        super().__init__(tokenizer, max_tokens, len(vectors))
        self.vectors = nn.Embedding(len(vectors), vectors.shape[1])
        self.vectors.weight = nn.Parameter(vectors)
        self.normalize = normalize

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides the weights, for the revision."""
        return {"normalize": self.normalize, **super().settings}

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        features = _pool(self.vectors(ids), mask, "mean")
        return nn.functional.normalize(features) if self.normalize else features


def _pool(tokens: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """[rows, tokens, width] to [rows, width] over the tokens that the mask keeps."""
    if pooling == "cls":
        return tokens[:, 0]
    kept = mask.unsqueeze(2)
    if pooling == "max":
        return tokens.masked_fill(~kept, torch.finfo(tokens.dtype).min).amax(1)
    weights = kept.to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)
