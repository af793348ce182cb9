"""The interface by which a text backbone's module turns strings into token ids, and the prompts of its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self, runtime_checkable

PADDING = 0
TOKEN_ZERO = -1
FIRST_UNPOOLED = -2


class Tokens(NamedTuple):
    """One text as token ids, special tokens included.

    truncated: whether the text was cut.  unpooled: the number of leading ids that the network reads but does not pool.
    """

    ids: list[int]
    truncated: bool
    unpooled: int = 0


class Tokenizer(Protocol):
    """The type of a text module's `tokenizer` attribute.

    The module receives the ids in one padded tensor: 0 is padding, -1 is a token whose id is 0, and -2 - id is a token
    that the network reads but does not pool.
    """

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        """Turn each text into at most the backbone's max_tokens ids, none of them negative."""
        ...


@dataclass(frozen=True)
class Prompts:
    """The prompts of one backbone.

    default: put before each text unless the call has another prompt.  named: the prompts that a call may name.
    unpooled: whether the network reads a prompt but does not pool its tokens.
    closing_ids: the special tokens that end a text; if a prompt ends in one, it is not part of the prompt.
    """

    default: str = ""
    named: Mapping[str, str] = field(default_factory=dict)
    unpooled: bool = False
    closing_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PromptChoice:
    """The prompt of one call.

    text: put before each text.  name: names one of the backbone's prompts instead.
    Both None: the backbone's default prompt. Raises ValueError if both are set, TypeError for a text of another type.
    """

    text: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.name is not None:
            raise ValueError(f"got prompt={self.text!r} and prompt_name={self.name!r}, expected at most one: drop one")
        if not isinstance(self.text, str | None):
            raise TypeError(f"got prompt={self.text!r} of type {type(self.text).__name__}, expected a string")


@runtime_checkable
class PromptedTokenizer(Tokenizer, Protocol):
    """A tokenizer with prompts."""

    prompts: Prompts

    def with_prompt(self, prompt: str) -> Self:
        """Return the same tokenizer with another default prompt."""
        ...


def prompts_of(tokenizer: object) -> Prompts:
    """Return the prompts of a tokenizer; none if it has no prompts."""
    return tokenizer.prompts if isinstance(tokenizer, PromptedTokenizer) else Prompts()


def choose_prompt(backbone: str, prompts: Prompts, choice: PromptChoice) -> str | None:
    """Return the text of the prompt that a call chose; None for the default.

    backbone: its name, for errors.
    Raises ValueError, with the names that exist, for a name that the backbone does not have.
    """
    if choice.name is None:
        return choice.text
    if choice.name not in prompts.named:
        names = ", ".join(map(repr, prompts.named))
        advice = f"it has {names}" if names else "it has none, pass the text itself as prompt"
        raise ValueError(f"{backbone} has no prompt {choice.name!r}: {advice}")
    return prompts.named[choice.name]
