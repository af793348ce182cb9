"""The output of a worker: its lines go to the log, the last ones are kept to explain a death."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import IO

logger = logging.getLogger(__name__)
# The command logs warnings and worse. The lines of a module are shown too, as if it ran in the server's process.
logger.setLevel(logging.INFO)

_CHUNK = 1 << 16
_TAIL_BYTES = 4096
_MAX_LINES = 20
_MAX_LINE_CHARS = 2000
# At most _MAX_LINES are logged in this time; the others are counted.
_LOG_EVERY_S = 0.05
# Nothing is read for this time after a large chunk, so that a full pipe slows down a worker that prints without end. A
# module may print 1.3 MB a second before it has to wait, and its lines do not delay the event loop.
_PAUSE_S = 0.05
_LARGE_CHUNK = 1 << 13


class WorkerOutput:
    """Reads the pipe of a worker's stdout and stderr on a thread, until its end."""

    def __init__(self, name: str, pipe: IO[bytes]) -> None:
        self._name = name
        self._pipe = pipe
        self._tail = b""
        self._window_end = 0.0
        self._room = 0
        self._omitted = 0
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"output-{name}", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """Return the last lines of a worker that has ended; wait for them for a second at most."""
        self._thread.join(timeout=1.0)
        return "\n".join(_printable(line) for line in _lines(self._tail)[-_MAX_LINES:])

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), _CHUNK):
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
            self._log(_lines(chunk))
            if len(chunk) >= _LARGE_CHUNK:
                self._pause.wait(_PAUSE_S)
        self._log_omitted()
        self._pipe.close()

    def _log(self, lines: list[str]) -> None:
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end, self._room = now + _LOG_EVERY_S, _MAX_LINES
            self._log_omitted()
        shown, omitted = lines[: self._room], lines[self._room :]
        for line in shown:
            logger.info("worker %s: %s", self._name, _printable(line))
        self._room -= len(shown)
        self._omitted += len(omitted)

    def _log_omitted(self) -> None:
        if self._omitted:
            logger.info("worker %s: and %d more lines", self._name, self._omitted)
            self._omitted = 0


def _lines(output: bytes) -> list[str]:
    return [line for line in output.decode(errors="replace").splitlines() if line.strip()]


def _printable(line: str) -> str:
    """Return a line without control characters: a module must not forge lines of the log."""
    return "".join(char if char.isprintable() else "?" for char in line[:_MAX_LINE_CHARS])
