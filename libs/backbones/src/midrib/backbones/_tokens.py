"""The interface by which a text backbone's module turns strings into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

PADDING = 0
TOKEN_ZERO = -1


class Tokens(NamedTuple):
    """One text as token ids, special tokens included; truncated says whether the text was cut."""

    ids: list[int]
    truncated: bool


class Tokenizer(Protocol):
    """The type of a text module's `tokenizer` attribute.

    The module receives the ids in one padded tensor, in which 0 is padding and -1 is a token whose id is 0.
    """

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        """Turn each text into at most the backbone's max_tokens ids, none of them negative."""
        ...
