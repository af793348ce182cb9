"""Puts the schema of the server's settings into the Helm chart's values.schema.json: build-support/chart_schema.py.

Run it after a change of the settings, with the server's sources on the path. The rest of the file is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from midrib.server._settings import Settings

SCHEMA = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "midrib" / "values.schema.json"


def definitions() -> dict[str, Any]:
    """Return the schemas of the settings, and of one backbone, which may be a name as well."""
    settings = Settings.model_json_schema()
    backbone = settings.pop("$defs")["BackboneSettings"]
    settings["properties"]["backbones"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Backbone"}]}
    for schema in (settings, backbone):
        del schema["title"]
        for setting in schema["properties"].values():
            del setting["title"]
    return {"Backbone": backbone, "Settings": settings}


def updated(text: str) -> str:
    """Return the text of the file with the current settings."""
    return json.dumps({**json.loads(text), "$defs": definitions()}, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(updated(SCHEMA.read_text()))
