"""The options of each backbone's deployment, from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from midrib.ray.serve._options import ServeOptions

_KEYS = (
    "min_replicas",
    "max_replicas",
    "num_cpus",
    "num_gpus",
    "placement_group_bundles",
    "placement_group_strategy",
    "upscale_delay_s",
    "downscale_delay_s",
)
_OPTIONS = TypeAdapter(ServeOptions)


def read_backbone_options(path: Path, defaults: ServeOptions) -> dict[str, ServeOptions]:
    """Return the options of each backbone that has a table in the file.

    defaults: the options that a table leaves out.
    Raises ValueError, with the path and the table, for a file that cannot be read or has other keys or values.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return {name: _options(f'["{name}"] in {path}', table, defaults) for name, table in tables.items()}


def _options(place: str, table: Mapping[str, Any], defaults: ServeOptions) -> ServeOptions:
    """Return the options in a table. Raises ValueError for other types or unknown keys."""
    if not isinstance(table, dict):
        raise ValueError(f"{place} is {table!r}, expected a table of {', '.join(_KEYS)}")  # noqa: TRY004 - a bad file
    if unknown := sorted(set(table) - set(_KEYS)):
        raise ValueError(f"{place} has {', '.join(unknown)}, expected some of {', '.join(_KEYS)}")
    smallest = table.get("min_replicas", 0)
    largest = max(defaults.max_replicas, smallest) if isinstance(smallest, int) else defaults.max_replicas
    try:
        return _OPTIONS.validate_python({**asdict(defaults), "max_replicas": largest, **table})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the table"
        raise ValueError(f"{place}: {key}: {first['msg']}") from error
