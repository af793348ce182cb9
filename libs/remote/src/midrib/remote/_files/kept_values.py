"""Values of kept columns as JSON, with the types of Parquet that JSON lacks."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

_TAG: Final = "$midrib"
_TYPES: Final[dict[type, Callable[[Any], str]]] = {
    bytes: lambda value: base64.b64encode(value).decode(),
    decimal.Decimal: str,
    datetime.datetime: lambda value: value.isoformat(),  # before date, of which it is a subclass
    datetime.date: lambda value: value.isoformat(),
    datetime.time: lambda value: value.isoformat(),
    datetime.timedelta: lambda value: str(value // datetime.timedelta(microseconds=1)),
}
_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "bytes": base64.b64decode,
    "Decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda text: datetime.timedelta(microseconds=int(text)),
}


def dump_values(values: Mapping[str, list[Any]]) -> str:
    """Return columns as JSON that `load_values` reads. A value of an unknown type becomes its text."""
    return json.dumps(values, default=_tagged)


def load_values(text: str) -> dict[str, list[Any]]:
    """Return the columns that `dump_values` wrote. Raises ValueError or KeyError if the text is damaged."""
    columns: dict[str, list[Any]] = json.loads(text, object_hook=_parsed)
    return columns


def plain_json(values: Any) -> str:
    """Return values as plain JSON for programs: dates as ISO 8601, bytes as base64."""
    return json.dumps(values, default=lambda value: _text(value)[1])


def _text(value: Any) -> tuple[str, str]:
    for kind, write in _TYPES.items():
        if isinstance(value, kind):
            return kind.__name__, write(value)
    return "str", str(value)


def _tagged(value: Any) -> Any:
    kind, text = _text(value)
    return {_TAG: kind, "value": text} if kind in _PARSERS else text


def _parsed(record: dict[str, Any]) -> Any:
    return _PARSERS[record[_TAG]](record["value"]) if record.keys() == {_TAG, "value"} else record
