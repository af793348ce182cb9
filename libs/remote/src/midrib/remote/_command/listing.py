"""`midrib list`: the entries of a registry, or the backbones of a server, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from midrib.registry import AbstractRegistry, Description, in_words, nearest
from midrib.remote._command.options import Access
from midrib.remote._command.tables import print_table


def local_registry() -> AbstractRegistry:
    """Return the registry of this process. Raises ImportError, with the remedy, if midrib-backbones is missing."""
    try:
        from midrib.backbones import BACKBONES
    except ModuleNotFoundError as error:
        raise ImportError(
            f"no backbones are installed here ({error}): name a server with --server grpc://host:port, or "
            "pip install midrib-server"
        ) from error
    return BACKBONES


def server_registry(server: str, access: Access) -> AbstractRegistry:
    """Return the backbones of a server as a registry."""
    from midrib.remote._torch.registry import RemoteRegistry

    return RemoteRegistry(server, **access.arguments())


def print_list(registry: AbstractRegistry, entries: Sequence[Description], *, as_json: bool) -> None:
    """Print entries of the registry, and on stderr the plugins that failed, whose entries are missing."""
    if as_json:
        typer.echo(json.dumps([entry.as_dict() for entry in entries], indent=2))
    elif entries:
        _print_table(entries)
    for failure in registry.plugin_failures:
        typer.secho(f"midrib: the plugin {failure}", fg=typer.colors.YELLOW, err=True)


def no_match(registry: AbstractRegistry, patterns: Sequence[str], *, catalogues: bool) -> LookupError:
    """Return the error for a listing without entries, with the nearest names.

    catalogues: whether the listing included whole catalogues.
    """
    if not len(registry):
        return LookupError(f"{registry} has no backbones")
    words = " or ".join(map(repr, patterns)) or "these options"
    near = [name for pattern in patterns for name in nearest(pattern.strip("*"), registry.nearby(pattern))]
    advice = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    more = "" if catalogues else ", `midrib list --all` also those of timm and other libraries"
    return LookupError(f"no backbone matches {words}: {advice}`midrib list` shows all names{more}")


def print_fields(fields: dict[str, object]) -> None:
    """Print the fields that have a value, one on each line."""
    for field, value in fields.items():
        if text := _plain(value):
            typer.echo(f"{field.replace('_', ' '):>18}  {text}")


def _print_table(entries: Sequence[Description]) -> None:
    """Print one row per entry."""
    rows = [
        (entry.key, in_words(entry.input), _plain(entry.num_features), entry.license or "", entry.install or "")
        for entry in entries
    ]
    print_table(("name", "input", "features", "licence", "needs"), rows)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)
