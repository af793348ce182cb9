"""The prompt of a run over files or tables."""

from __future__ import annotations

from dataclasses import dataclass

from midrib.wire import InvalidInputError


@dataclass(frozen=True)
class ChosenPrompt:
    """The prompt of a run: a text, or the name of one of the backbone's; both None for the backbone's default."""

    text: str | None
    name: str | None

    def check(self, kind: str, place: str) -> None:
        """Raise InvalidInputError if an item is not a text, but the run has a prompt.

        place: where the item is, for the error.
        """
        if (self.text or self.name) and kind != "texts":
            argument = f"prompt={self.text!r}" if self.text else f"prompt_name={self.name!r}"
            raise InvalidInputError(f"{argument} is for texts, but {place} holds {kind}")

    def recipe(self) -> dict[str, str]:
        """Return the arguments on which the output depends. Without a name they are those of older versions."""
        text = '""' if self.text == "" else self.text or ""
        return {"prompt": text} if self.name is None else {"prompt": text, "prompt_name": self.name}
