"""Networks over token ids that return one row of features per text.

All take ids [rows, tokens], int64, 0 where padded and -1 for a token whose id is 0. If prompts are not pooled, their
tokens are -2 - id. Ids outside the vocabulary and rows that are too long are a ValueError, because on a GPU they would
make the process unable to use the device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from midrib.backbones._texts import FastTokenizer
from midrib.backbones._tokens import FIRST_UNPOOLED, PADDING, TOKEN_ZERO
from midrib.registry import TextInput

Pooling: TypeAlias = Literal["mean", "cls", "max"]


class _TokenNetwork(nn.Module):
    """The common part: the tokenizer, the bounds of ids and lengths, and the attention mask."""

    def __init__(self, tokenizer: FastTokenizer, max_tokens: int, vocabulary: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.input = TextInput(max_tokens)
        self.vocabulary = vocabulary

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the features besides the weights, for the revision."""
        return dict(self.tokenizer.settings)

    def forward(self, ids: Tensor) -> Tensor:
        """Return [rows, width] for ids [rows, tokens]. Raises ValueError for ids that the network cannot look up."""
        self._check(ids)
        if ids.shape[1] == 0:
            ids = ids.new_full((len(ids), 1), PADDING)
        return self._features(ids.masked_fill(ids == TOKEN_ZERO, 0), ids != PADDING)

    @abstractmethod
    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return [rows, width] for vocabulary ids and mask, both [rows, tokens]; a row's mask may be empty."""

    def _check(self, ids: Tensor) -> None:
        """Raise ValueError for ids [rows, tokens] outside the vocabulary, or for too many tokens."""
        last = self.vocabulary - 1
        least = FIRST_UNPOOLED - last if self.tokenizer.prompts.unpooled else TOKEN_ZERO
        if ids.shape[1] > self.input.max_tokens:
            raise ValueError(
                f"got rows of {ids.shape[1]} tokens, expected at most {self.input.max_tokens}: truncate them"
            )
        if ids.numel() and (int(ids.min()) < least or int(ids.max()) > last):
            raise ValueError(
                f"got ids from {int(ids.min())} to {int(ids.max())}, expected {least} to {last}: "
                "use this backbone's tokenizer"
            )


def _with_a_token(mask: Tensor) -> Tensor:
    """Return the mask [rows, tokens] with the first place of empty rows set: attention over nothing is NaN."""
    filled = mask.clone()
    filled[:, :1] |= ~mask.any(1, keepdim=True)
    return filled


def _zero_where_empty(features: Tensor, mask: Tensor) -> Tensor:
    """Return features [rows, width] with zeros in the rows whose mask [rows, tokens] is empty."""
    return torch.where(mask.any(1, keepdim=True), features, torch.zeros((), dtype=features.dtype, device=mask.device))


class TextEncoder(_TokenNetwork):
    """A transformer of the `transformers` library, pooled over each text: [rows, tokens] to [rows, width].

    A row of padding alone gives zeros.
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
        """The settings that decide the features besides the weights, for the revision."""
        choices = {"pooling": self.pooling, "normalize": self.normalize}
        return {**choices, "architecture": architecture(self.encoder.config), **super().settings}

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        attended = _with_a_token(mask)
        tokens = self.encoder(input_ids=ids, attention_mask=attended.long()).last_hidden_state
        features = _pool(tokens, attended, self.pooling)
        return _zero_where_empty(nn.functional.normalize(features) if self.normalize else features, mask)


class SentenceEncoder(_TokenNetwork):
    """A pipeline of sentence-transformers that starts with a transformer: [rows, tokens] to [rows, width].

    width: the number of leading features that the pipeline keeps (its `truncate_dim`).
    modules: a description of the pipeline's modules, for the revision.
    A row of padding alone gives zeros.
    """

    def __init__(
        self,
        pipeline: nn.Module,
        tokenizer: FastTokenizer,
        *,
        max_tokens: int,
        vocabulary: int,
        width: int,
        modules: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, max_tokens, vocabulary)
        self.pipeline = pipeline
        self.width = width
        self.module_settings = dict(modules or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the features besides the weights, for the revision."""
        return {"width": self.width, "modules": self.module_settings, **super().settings}

    def forward(self, ids: Tensor) -> Tensor:
        """Return [rows, width] for ids [rows, tokens]. Raises ValueError for ids that the network cannot look up."""
        if not self.tokenizer.prompts.unpooled:
            return super().forward(ids)
        self._check(ids)
        unpooled = ids <= FIRST_UNPOOLED
        words = torch.where(unpooled, FIRST_UNPOOLED - ids, ids.masked_fill(ids == TOKEN_ZERO, 0))
        lengths, group = torch.unique(unpooled.sum(1), return_inverse=True)
        # The pipeline takes one length of the prompt per call.
        groups = [(group == index).nonzero().squeeze(1) for index in range(len(lengths))]
        parts = [
            self._features(words[rows], ids[rows] != PADDING, length)
            for rows, length in zip(groups, lengths.tolist(), strict=True)
        ]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _features(self, ids: Tensor, mask: Tensor, prompt_tokens: int = 0) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": _with_a_token(mask).long()}
        if prompt_tokens:
            inputs["prompt_length"] = prompt_tokens
        features: Tensor = self.pipeline(inputs)["sentence_embedding"]
        return _zero_where_empty(features[:, : self.width], mask)


class StaticTextEncoder(_TokenNetwork):
    """A table of word vectors, averaged over the tokens of each text: [rows, tokens] to [rows, width].

    vectors: [vocabulary, table width].  steps: modules of sentence-transformers that follow, such as Dense.
    width: the number of leading features that are kept; all by default.
    modules: a description of the steps, for the revision.
    """

    def __init__(
        self,
        vectors: Tensor,
        tokenizer: FastTokenizer,
        *,
        max_tokens: int,
        steps: Iterable[nn.Module] = (),
        width: int | None = None,
        modules: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, max_tokens, len(vectors))
        self.vectors = nn.Embedding(len(vectors), vectors.shape[1])
        self.vectors.weight = nn.Parameter(vectors)
        self.steps = nn.ModuleList(steps)
        self.width = width
        self.module_settings = dict(modules or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the features besides the weights, for the revision."""
        return {"width": self.width, "modules": self.module_settings, **super().settings}

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        features = {"sentence_embedding": self._average(ids, mask)}
        for step in self.steps:
            features = step(features)
        return features["sentence_embedding"][:, : self.width]

    def _average(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean vector [rows, table width] of the tokens that mask keeps; ids and mask are [rows, tokens].

        The vectors are added one after the other, as by nn.EmbeddingBag in sentence-transformers: for long texts,
        another order of the sum differs by more than 1e-5.
        """
        table = self.vectors.weight
        total = nn.functional.embedding_bag(ids, table, mode="sum", per_sample_weights=mask.to(table.dtype))
        return total / mask.sum(1, keepdim=True).clamp(min=1)


def architecture(config: Any) -> dict[str, Any]:
    """Return the settings of a transformers configuration that differ from their defaults.

    Names of files, versions and dtypes are left out: they say nothing about the function.
    """
    provenance = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return {key: value for key, value in config.to_diff_dict().items() if key not in provenance}


def _pool(tokens: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool tokens [rows, tokens, width] to [rows, width] over the places that mask [rows, tokens] keeps."""
    if pooling == "cls":
        return tokens[:, 0]
    kept = mask.unsqueeze(2)
    if pooling == "max":
        return tokens.masked_fill(~kept, torch.finfo(tokens.dtype).min).amax(1)
    weights = kept.to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
