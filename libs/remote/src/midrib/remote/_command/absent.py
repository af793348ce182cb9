"""The commands of midrib-server where it is not installed: each says which package it needs."""

from __future__ import annotations

from typing import Final

import typer

_PACKAGES: Final = {
    "demo": "'midrib-server[demo]'",
    "predict": "'midrib-server[train]'",
    "ray": "'midrib-ray[serve]'",
    "serve": "midrib-server",
    "token": "midrib-server",
    "train": "'midrib-server[train]'",
}


def add_absent_commands(app: typer.Typer) -> None:
    """Add them to an application, hidden from its help."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    for name in _PACKAGES:
        app.command(name=name, hidden=True, add_help_option=False, context_settings=settings)(_refuse)


def _refuse(context: typer.Context) -> None:
    """Raise ImportError, with the package to install."""
    name = str(context.info_name)
    raise ImportError(f"`midrib {name}` is a command of another package: pip install {_PACKAGES[name]}")
