"""Strings to the padded token ids that a text backbone takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from midrib.backbones._errors import MediaError
from midrib.backbones._tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    import tokenizers


class FastTokenizer:
    """A tokeniser of the `tokenizers` library, bounded in length and with a prompt before each text.

    shift is added to every id: 1 for a family whose id 0 is a word and not the padding.
    special: whether to add the family's marks, such as [CLS] and [SEP].
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_tokens: int,
        prompt: str = "",
        shift: int = 0,
        special: bool = True,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self.shift = shift
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._special = special

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        prompted = [self._prompt + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prompted, add_special_tokens=self._special)
        return [Tokens([i + self.shift for i in e.ids], bool(e.overflowing)) for e in encodings]

    @property
    def settings(self) -> dict[str, str]:
        """What decides its answers, for the revision."""
        own = {"prompt": self._prompt, "shift": str(self.shift), "special": str(self._special)}
        return {"tokenizer": self._tokenizer.to_str(), **own}


def prepare_texts(texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, *, truncate: bool = True) -> Tensor:
    """Turn texts into one batch of ids: [rows, tokens of the longest], int64, padded on the right with 0.

    truncate: cut a text longer than max_tokens; if False it is an error.
    Raises MediaError, with the item's index, for an item that is no (valid) string, or too long.
    """
    for index, text in enumerate(texts):
        _check(index, text)
    rows = tokenizer(texts) if texts else []
    if not truncate:
        _refuse_truncated(rows, max_tokens)
    # A batch of empty texts still has one column: a tensor of no columns has no place for its padding.
    ids = torch.zeros(len(rows), max((len(row.ids) for row in rows), default=0) or 1, dtype=torch.int64)
    for filled, row in zip(ids, rows, strict=True):
        filled[: len(row.ids)] = torch.tensor(row.ids, dtype=torch.int64)
    return ids


def _check(index: int, text: object) -> None:
    if not isinstance(text, str):
        raise MediaError(index, f"got {type(text).__name__}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MediaError(index, f"the text is no valid Unicode ({error.reason}): decode it properly first") from error


def _refuse_truncated(rows: Sequence[Tokens], max_tokens: int) -> None:
    for index, row in enumerate(rows):
        if row.truncated:
            raise MediaError(index, f"the text has more than {max_tokens} tokens: shorten it, or allow truncation")
