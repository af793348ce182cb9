"""Turn strings into the padded token ids that a text backbone takes, without torch.

A server's process tokenizes while its workers compute, so this module does not import torch.

In the array of ids, 0 is padding and nothing else. A token whose id in the vocabulary is 0, such as BERT's [PAD] spelt
out in a text or RoBERTa's <s>, is written as -1. The ids therefore carry their attention mask (`ids != 0`) wherever
they go, also over the wire, and batches can be padded with 0 by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from midrib.backbones._errors import MediaError
from midrib.backbones._tokens import PADDING, TOKEN_ZERO, Tokenizer, Tokens

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
        prompt: str = "",
        special: bool = True,
        truncation_side: str = "right",
    ) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens, direction=truncation_side)
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._special = special

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        prompted = [self._prompt + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prompted, add_special_tokens=self._special)
        return [Tokens(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    @property
    def settings(self) -> dict[str, str]:
        """The settings that decide its answers, for the revision."""
        return {"prompt": self._prompt, "special": str(self._special), "tokenizer": self._tokenizer.to_str()}


def token_ids(
    texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, *, truncate: bool = True
) -> npt.NDArray[np.int64]:
    """Turn texts into one batch of ids: [rows, tokens of the longest], int64, 0 where padded, -1 for token 0.

    truncate: cut texts longer than max_tokens; if False, they are an error.
    Raises MediaError, with the item's index, for an item that is not a valid string, or too long.
    """
    for index, text in enumerate(texts):
        _check(index, text)
    rows = tokenizer(texts) if texts else []
    if not truncate:
        _refuse_truncated(rows, max_tokens)
    # A batch of empty texts still has one column, so that every row has a place for its padding.
    ids = np.full((len(rows), max((len(row.ids) for row in rows), default=0) or 1), PADDING, np.int64)
    for target, row in zip(ids, rows, strict=True):
        numbers = np.asarray(row.ids, np.int64)
        target[: len(numbers)] = np.where(numbers == PADDING, TOKEN_ZERO, numbers)
    return ids


def _check(index: int, text: object) -> None:
    if not isinstance(text, str):
        raise MediaError(index, f"got {type(text).__name__}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MediaError(index, f"the text is not valid Unicode ({error.reason}): decode it properly first") from error


def _refuse_truncated(rows: Sequence[Tokens], max_tokens: int) -> None:
    for index, row in enumerate(rows):
        if row.truncated:
            raise MediaError(index, f"the text has more than {max_tokens} tokens: shorten it, or allow truncation")
