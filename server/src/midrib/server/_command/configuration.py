"""The settings as text: the TOML of `midrib serve --print-config`, and docs/configuration.md.

Write the page again after a change of the settings: `python -m midrib.server._command.configuration`, to stdout.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from midrib.server._settings import BackboneSettings, Settings

_HEAD = """# Configuration of the server

`midrib serve` reads its settings from a TOML file (`--config midrib.toml`), from environment variables
(`MIDRIB_MAX_BATCH_ROWS=64`; `MIDRIB_BACKBONES='["mlp-128"]'`) and from flags; a variable overrides the file, and a flag
overrides both. `midrib serve --print-config` prints the effective settings as a TOML file. The units are in the names:
`_bytes`, `_s` for seconds, `_ms` for milliseconds.

This page is generated from the settings by `python -m midrib.server._command.configuration`.
"""


def render_config(settings: Settings) -> str:
    """Return the effective settings as TOML; settings that are unset are comments with their meaning."""
    values = settings.model_dump(mode="json", exclude_none=True)
    unset = [
        f"# {name} = ...  # {_first_sentence(field)}"
        for name, field in Settings.model_fields.items()
        if name not in values
    ]
    return "\n".join([*unset, tomli_w.dumps(values)])


def document() -> str:
    """Return docs/configuration.md: a table of all settings with type, default and meaning."""
    server, backbone = _table(Settings), _table(BackboneSettings)
    return f"{_HEAD}\n## The server\n\n{server}\n\n## One backbone: an entry of `[[backbones]]`\n\n{backbone}\n"


def _table(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {' '.join((field.description or '').split())} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _type(annotation: Any) -> str:
    """Return the type of a setting as TOML's users know it; alternatives are joined by "or"."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in parts if part is not type(None))
    if origin is typing.Literal:
        return " or ".join(f'`"{part}"`' for part in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "table"
    names = {str: "string", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(annotation, "table")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    return f"`{tomli_w.dumps({'value': value}).strip().removeprefix('value = ')}`" if value != {} else "`{}`"


def _first_sentence(field: FieldInfo) -> str:
    return (field.description or "").split("\n\n")[0]


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201 - the page is its output
