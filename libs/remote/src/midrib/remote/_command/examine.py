"""`midrib doctor`: the verdicts of `midrib.remote.doctor`, at the command line."""

from __future__ import annotations

import dataclasses
import json

import typer

from midrib.remote._command.options import Access


def examine(url: str, access: Access, *, as_json: bool) -> bool:
    """Print the verdicts on the connection to a served backbone; return whether all of them are good."""
    from midrib.remote._doctor.checks import doctor

    verdicts = doctor(url, **access.arguments())
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=2))
        return all(verdict.ok for verdict in verdicts)
    for verdict in verdicts:
        mark = typer.style("ok  ", fg="green") if verdict.ok else typer.style("FAIL", fg="red")
        typer.echo(f"{mark}  {verdict.check:<12}  {verdict.detail}")
        if verdict.fix:
            typer.echo(f"      {'':<12}  -> {verdict.fix}")
    return all(verdict.ok for verdict in verdicts)
