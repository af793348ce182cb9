"""The server's log: lines for people, or JSON lines for whatever collects them."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Literal

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What a record may carry beside its message: by `extra`, where it is logged.
_FIELDS = ("error_id", "backbone", "method", "path", "status", "reason", "seconds", "bytes", "token", "peer")


def set_up(form: Literal["text", "json"]) -> None:
    """Log warnings and worse on stderr, in that form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and what else the record carries.

    error_id: what the caller was given in place of the error.  exception: the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
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
        return json.dumps(line)
