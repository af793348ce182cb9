"""Turn strings into the padded token ids that a text backbone takes, without torch.

A server's process tokenizes while its workers compute, so this module does not import torch.

In the array of ids, 0 is padding and nothing else. A token whose id in the vocabulary is 0, such as BERT's [PAD] spelt
out in a text or RoBERTa's <s>, is written as -1. The ids therefore carry their attention mask (`ids != 0`) wherever
they go, also over the wire, and batches can be padded with 0 by anyone. The tokens of a prompt that the network reads
but does not pool are written as -2 - id, so the ids carry the mask of the pooling too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from midrib.backbones._errors import MediaError
from midrib.backbones._tokens import (
    FIRST_UNPOOLED,
    PADDING,
    TOKEN_ZERO,
    PromptedTokenizer,
    Prompts,
    Tokenizer,
    Tokens,
)

if TYPE_CHECKING:
    import tokenizers


class FastTokenizer:
    """A tokenizer of the `tokenizers` library with a maximal length and a prompt before each text.

    special: whether to add the family's special tokens, such as [CLS] and [SEP].
    truncation_side: the end at which long texts are cut, "right" or "left".
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_tokens: int,
        prompts: Prompts | None = None,
        special: bool = True,
        truncation_side: str = "right",
    ) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens, direction=truncation_side)
        self._tokenizer = tokenizer
        self.prompts = prompts or Prompts()
        self._prompt = self.prompts.default
        self._special = special

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        prompted = [self._prompt + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prompted, add_special_tokens=self._special)
        unpooled = self._prompt_tokens()
        return [Tokens(encoding.ids, bool(encoding.overflowing), unpooled) for encoding in encodings]

    def with_prompt(self, prompt: str) -> Self:
        """Return the same tokenizer with another prompt before each text."""
        tokenizer = copy.copy(self)
        tokenizer._prompt = prompt  # noqa: SLF001 - a copy of this object
        return tokenizer

    def _prompt_tokens(self) -> int:
        """Return how many leading tokens of each text are not pooled, as sentence-transformers counts them."""
        if not self._prompt or not self.prompts.unpooled:
            return 0
        ids = self._tokenizer.encode(self._prompt, add_special_tokens=self._special).ids
        return len(ids) - (bool(ids) and ids[-1] in self.prompts.closing_ids)

    @property
    def settings(self) -> dict[str, str]:
        """The settings that decide its answers, for the revision."""
        # sentence-transformers adds empty prompts to those of the model.
        named = {f"prompt {name}": text for name, text in self.prompts.named.items() if text}
        return {**named, "prompt": self._prompt, "special": str(self._special), "tokenizer": self._tokenizer.to_str()}


def token_ids(
    texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, *, truncate: bool = True, prompt: str | None = None
) -> npt.NDArray[np.int64]:
    """Turn texts into one batch of ids: [rows, tokens of the longest], int64, 0 where padded, -1 for token 0.

    truncate: cut texts longer than max_tokens; if False, they are an error.
    prompt: put before each text in place of the tokenizer's default.
    Raises MediaError, with the item's index, for an item that is not a valid string, or too long; TypeError for one
    string in place of a list.
    """
    refuse_one_string(texts)
    texts = list(texts)  # an array or a column of a data frame is neither true nor false
    for index, text in enumerate(texts):
        _check(index, text)
    rows = _tokenized(texts, tokenizer, prompt) if texts else []
    if not truncate:
        _refuse_truncated(rows, max_tokens)
    # A batch of empty texts still has one column, so that every row has a place for its padding.
    ids = np.full((len(rows), max((len(row.ids) for row in rows), default=0) or 1), PADDING, np.int64)
    for target, row in zip(ids, rows, strict=True):
        numbers = np.asarray(row.ids, np.int64)
        target[: len(numbers)] = np.where(numbers == PADDING, TOKEN_ZERO, numbers)
        unpooled = getattr(row, "unpooled", 0)  # tokenizers of users may return other classes
        target[:unpooled] = FIRST_UNPOOLED - numbers[:unpooled]
    return ids


def refuse_one_string(texts: object) -> None:
    """Raise TypeError for one string in place of a list: it would be embedded letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"got the string {texts!r:.60}, expected a list of texts: pass [text]")


def _tokenized(texts: Sequence[str], tokenizer: Tokenizer, prompt: str | None) -> list[Tokens]:
    if prompt is None:
        return tokenizer(texts)
    if isinstance(tokenizer, PromptedTokenizer):
        return tokenizer.with_prompt(prompt)(texts)
    return tokenizer([prompt + text for text in texts])


def _check(index: int, text: object) -> None:
    """Raise MediaError for a value that is not a string, or not valid Unicode."""
    if not isinstance(text, str):
        raise MediaError(index, f"got {type(text).__name__}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MediaError(index, f"the text is not valid Unicode ({error.reason}): decode it properly first") from error


def _refuse_truncated(rows: Sequence[Tokens], max_tokens: int) -> None:
    """Raise MediaError for the first text that was truncated."""
    for index, row in enumerate(rows):
        if row.truncated:
            raise MediaError(index, f"the text has more than {max_tokens} tokens: shorten it, or allow truncation")
