"""Options that a command does not have: the error names the option, or the setting, that the user probably means."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from midrib.registry import nearest


def near_options(context: typer.Context, name: str) -> str:
    """Return the options of a command that are nearest to an unknown one, in words."""
    return " or ".join(nearest(name, _options(context))) or "one of those that --help shows"


def refuse_in_names(context: typer.Context, names: Iterable[str]) -> None:
    """Raise BadParameter for an option among the names of backbones: `midrib serve` does not have it."""
    from midrib.server._settings import PREFIX, Settings  # pydantic is slow to import, and --help does not need it

    for option in (name.partition("=")[0] for name in names if name.startswith("-")):
        longer = [known for known in _options(context) if known.startswith(option)]
        beginning = option.removeprefix("--").replace("-", "_")
        setting = next((field for field in Settings.model_fields if field.startswith(beginning)), None)
        if setting and not longer:
            raise typer.BadParameter(
                f"{option} is not an option: write the setting `{setting} = ...` into a file for --config, "
                f"or set {PREFIX}{setting.upper()}"
            )
        near = " or ".join(longer) or near_options(context, option)
        raise typer.BadParameter(f"{option} is not an option: did you mean {near}?")


def _options(context: typer.Context) -> list[str]:
    return [option for parameter in context.command.params for option in parameter.opts]
