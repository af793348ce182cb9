"""Tables whose first column holds names. A name is never cut, because users copy it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 1000  # a pipe has no width, and its reader needs whole cells
_LEAST_REST_WIDTH = 32  # the columns of a table beside the names


def stdout_console() -> Console:
    """Return a console on stdout that is wide enough for all cells if stdout is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a row for each name; in a narrow terminal the name on one line and its cells on the next.

    head: the titles of the columns, that of the names first.  rows: cells, the name first.
    """
    console = stdout_console()
    if _fits(rows, console.width):
        console.print(_table(head, rows))
    else:
        for line in _lines(head, rows):
            typer.echo(line)  # the terminal wraps it, so that a copied name has no line break


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """Return the same for a live display.  width: that of the terminal, in columns."""
    if _fits(rows, width):
        return _table(head, rows)
    return Group(*(Text(line, overflow="fold") for line in _lines(head, rows)))


def _fits(rows: Sequence[Sequence[str]], width: int) -> bool:
    return max((len(row[0]) for row in rows), default=0) + _LEAST_REST_WIDTH <= width


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(head[0], no_wrap=True, min_width=max((len(row[0]) for row in rows), default=0))
    for title in head[1:]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for name, *cells in rows:
        titled = (f"{title} {cell}" for title, cell in zip(head[1:], cells, strict=True) if cell)
        lines += [name, "    " + ", ".join(titled)]
    return lines
