"""`midrib list` and `midrib describe`: the registry's entries, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from midrib.backbones import BACKBONES
from midrib.registry import AbstractRegistry, Description, in_words

_PIPE_WIDTH = 1000


def listed_registry(server: str | None, token: str | None) -> AbstractRegistry:
    """What is registered here, or what a server serves."""
    if server is None:
        return BACKBONES
    from midrib.remote import RemoteRegistry  # grpc, which a local listing does not need

    return RemoteRegistry(server, token=token)


def print_list(registry: AbstractRegistry, entries: Sequence[Description], *, as_json: bool) -> None:
    """Print entries of the registry; on stderr, the plugins that failed and whose entries are not there therefore."""
    if as_json:
        typer.echo(json.dumps([entry.as_dict() for entry in entries], indent=2))
    elif not entries:
        typer.echo("no backbone matches; `midrib list` shows all")
    else:
        _print_table(entries)
    for failure in registry.plugin_failures:
        typer.secho(f"midrib: the plugin {failure}", fg=typer.colors.YELLOW, err=True)


def print_explanation(name: str, *, as_json: bool) -> None:
    """Print what is known of one entry; raises KeyError with near names where there is none."""
    explanation = BACKBONES.explain(name)
    if as_json:
        typer.echo(json.dumps(explanation.as_dict(), indent=2))
        return
    for field, value in explanation.as_dict().items():
        shown = in_words(explanation.input) if field == "input" else _plain(value)
        if shown:
            typer.echo(f"{field.replace('_', ' '):>18}  {shown}")


def _print_table(entries: Sequence[Description]) -> None:
    table = Table("name", "input", "features", "licence", "needs", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        cells = (entry.key, in_words(entry.input), _plain(entry.num_features), entry.license or "", entry.install or "")
        table.add_row(*map(escape, cells))
    # A pipe has no width: whoever reads it wants whole cells.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)
