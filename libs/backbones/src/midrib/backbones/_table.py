"""Make the table of docs/backbones.md from the registry: `python -m midrib.backbones._table docs/backbones.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from midrib.backbones._catalogue import BACKBONES
from midrib.registry import Description, in_words

_BEGIN, _END = "<!-- table: begin, made by midrib.backbones._table -->", "<!-- table: end -->"
_HEADS = ("name", "input", "num_features", "licence", "weights")


def with_table(text: str) -> str:
    """Return the document with its table replaced by the current one."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_table()}\n{_END}{after}"


def _table() -> str:
    rows = [_HEADS, tuple("---" for _ in _HEADS)]
    rows += [_row(entry) for entry in BACKBONES.list(catalogues=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(entry: Description) -> tuple[str, ...]:
    source = ", ".join(entry.providers)
    return f"`{entry.key}`", in_words(entry.input), str(entry.num_features), entry.license or "", source


if __name__ == "__main__":
    for _name in sys.argv[1:]:
        _document = Path(_name)
        _document.write_text(with_table(_document.read_text()))
