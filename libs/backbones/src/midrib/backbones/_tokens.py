"""What a text backbone's module carries to turn strings into ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Tokens(NamedTuple):
    """One text as ids, special tokens included; truncated says whether something was cut off."""

    ids: list[int]
    truncated: bool


class Tokenizer(Protocol):
    """What a text backbone's module carries as `tokenizer`: no id it returns is 0, for 0 is the padding."""

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        """Turn each text into at most the backbone's max_tokens ids."""
        ...
