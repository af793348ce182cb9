"""A transformer over token ids, pooled to one row a text."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from midrib.backbones._texts import FastTokenizer
from midrib.registry import TextInput

Pooling: TypeAlias = Literal["mean", "cls", "max"]


class TextEncoder(nn.Module):
    """Token ids [rows, tokens], int64, 0 where padded, to [rows, width].

    A row of padding alone embeds to zeros. Ids beyond the vocabulary and rows longer than the encoder's positions are a
    ValueError, for on a GPU they would otherwise end the process's use of it.
    Source of the pooling: Reimers & Gurevych 2019, section 3.
    """

    def __init__(
        self, encoder: nn.Module, tokenizer: FastTokenizer, *, max_tokens: int, pooling: Pooling, normalize: bool
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.tokenizer = tokenizer
        self.input = TextInput(max_tokens)
        self.pooling = pooling
        self.normalize = normalize

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features besides the weights, for the revision."""
        return {"pooling": self.pooling, "normalize": self.normalize, **self.tokenizer.settings}

    def forward(self, ids: Tensor) -> Tensor:
        """Return one row of features a text."""
        self._check(ids)
        mask = ids != 0
        # Attention over nothing is not a number: an empty row attends to its first padding, and pools to zero below.
        seen = mask.clone()
        seen[:, :1] |= ~mask.any(1, keepdim=True)
        tokens = self.encoder(input_ids=self._own_ids(ids, mask), attention_mask=seen.long()).last_hidden_state
        features = _pool(tokens, mask, self.pooling)
        return nn.functional.normalize(features) if self.normalize else features

    def _own_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Undo the tokeniser's shift; what is padding here becomes the encoder's own padding."""
        shift = self.tokenizer.shift
        return torch.where(mask, ids - shift, self.encoder.config.pad_token_id or 0) if shift else ids

    def _check(self, ids: Tensor) -> None:
        vocabulary = self.encoder.config.vocab_size + self.tokenizer.shift
        if ids.shape[1] > self.input.max_tokens:
            raise ValueError(
                f"got rows of {ids.shape[1]} tokens, expected at most {self.input.max_tokens}: truncate them"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            raise ValueError(
                f"got ids from {int(ids.min())} to {int(ids.max())}, expected 0 to {vocabulary - 1}: "
                "use this backbone's own tokenizer"
            )


def _pool(tokens: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """[rows, tokens, width] to [rows, width] over the tokens that the mask keeps; nothing kept gives zeros."""
    kept = mask.unsqueeze(2).to(tokens.dtype)
    if pooling == "cls":
        return tokens[:, 0] * kept[:, 0]
    if pooling == "max":
        highest = tokens.masked_fill(~mask.unsqueeze(2), torch.finfo(tokens.dtype).min).amax(1)
        return highest * mask.any(1, keepdim=True)
    return (tokens * kept).sum(1) / kept.sum(1).clamp(min=1)
