"""The log records of front processes: the engine's process writes them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

# Several processes log the same about a shared cause, such as a certificate. It is written once within this time.
_SAME_S = 60.0


class ForwardingHandler(logging.Handler):
    """Sends records to the engine.

    send: takes the payload of a record, from any thread.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            trace = self._formatter.formatException(record.exc_info) if record.exc_info else None
            self._send(json.dumps([record.name, record.levelno, record.getMessage(), trace]).encode())
        except Exception:  # noqa: BLE001 - as logging does
            self.handleError(record)


class ForwardedLog:
    """Writes the records of front processes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def write(self, front: int, payload: bytes) -> None:
        """Write a record of a front process, unless another one has just sent the same.

        Raises ValueError for another payload.
        """
        name, level, message, trace = json.loads(payload)
        now = time.monotonic()
        self._last = {text: last for text, last in self._last.items() if now - last[1] < _SAME_S}
        if self._last.setdefault(message, (front, now))[0] != front:
            return
        logger = logging.getLogger(str(name))
        if logger.isEnabledFor(int(level)):
            values = {"name": name, "levelno": level, "levelname": logging.getLevelName(level)}
            logger.handle(logging.makeLogRecord({**values, "msg": "%s", "args": (message,), "exc_text": trace}))
