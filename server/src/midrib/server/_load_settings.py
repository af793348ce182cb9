"""Load the settings from flags, variables and a file, with errors that name the source of a wrong value."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict, SettingsError

from midrib.server._field_errors import FieldError, field_errors
from midrib.server._settings import PREFIX, Settings


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Return the effective settings. Flags that are None are ignored.

    Raises FileNotFoundError if the config file does not exist, ValueError for a wrong value or an unknown setting, with
    its source.
    """
    if config is not None and not config.is_file():
        raise FileNotFoundError(f"no config file at {config}: check the path given to --config")

    class ConfiguredSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    values = {name: value for name, value in flags.items() if value is not None}
    try:
        return ConfiguredSettings(**values)
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise ValueError(
            f"an environment variable {PREFIX}... is not valid JSON ({error}): lists and tables are JSON"
        ) from error
    except ValidationError as error:
        errors = field_errors(error, Settings, "the settings")
        raise ValueError("\n".join(_with_source(wrong, values, config) for wrong in errors)) from error


def _with_source(error: FieldError, flags: Collection[str], config: Path | None) -> str:
    """Return the sentence of an error after the file or the variable that the value is from."""
    name = str(error.path[0]) if error.path else ""
    variable = f"{PREFIX}{name.upper()}"
    if not name or name in flags:
        return error.sentence
    return f"{variable if variable in os.environ else config}: {error.sentence}"
