"""The server's log: lines for people, or JSON lines for log collectors."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Fields that a log call may add to its record, by `extra`.
_FIELDS = ("error_id", "backbone", "method", "path", "status", "reason", "seconds", "bytes", "token", "peer")

# Control characters as escapes. A line break stays, and the line after it is indented.
_VISIBLE = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\t"},
    0x0A: "\n  ",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def set_up(form: Literal["text", "json"]) -> None:
    """Log warnings and errors on stderr, in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(_TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextmanager
def without_sentences() -> Iterator[None]:
    """Drop errors without a traceback while the block runs, because the command prints their sentences when it ends."""

    def has_traceback(record: logging.LogRecord) -> bool:
        return record.exc_info is not None or not hasattr(record, "error_id")

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(has_traceback)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(has_traceback)


class TextFormatter(logging.Formatter):
    """One record a line; further lines of it, as of a traceback, are indented.

    A message may quote a client. It can therefore neither begin another record nor control a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return super().format(record).translate(_VISIBLE)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and the record's other fields.

    error_id: the id that the caller received in place of the error.  exception: the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        time = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # a record of another process has only the text
            line["exception"] = record.exc_text
        return json.dumps(line)
