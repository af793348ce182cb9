"""`midrib doctor`: the verdicts of `midrib.remote.doctor`, at the command line."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

from midrib.remote._command.options import Access

if TYPE_CHECKING:
    from midrib.remote._doctor.network import Verdict


def examine(url: str, access: Access, *, as_json: bool) -> bool:
    """Print the verdicts on the connection to a served backbone; return whether all of them are good."""
    from midrib.remote._doctor.checks import verdicts_on

    verdicts = []
    for verdict in verdicts_on(url, **access.arguments()):
        verdicts.append(verdict)
        if not as_json:
            _print(verdict)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=2))
    return all(verdict.ok for verdict in verdicts)


def _print(verdict: Verdict) -> None:
    mark = typer.style("ok  ", fg="green") if verdict.ok else typer.style("FAIL", fg="red")
    typer.echo(f"{mark}  {verdict.check:<12}  {verdict.detail}")
    if verdict.fix:
        typer.echo(f"      {'':<12}  -> {verdict.fix}")
