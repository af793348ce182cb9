"""The output of a worker: its lines go to the log, the last ones are kept to explain a death."""

from __future__ import annotations

import logging
import os
import threading
from typing import IO

logger = logging.getLogger(__name__)
# The command logs warnings and worse; what a module prints is shown, as if it ran in the server's process.
logger.setLevel(logging.INFO)

_CHUNK = 4096
_TAIL_BYTES = 4096
_MAX_LINES = 20
# A worker that prints without end is held back by its full pipe: at most _CHUNK bytes are read in this time.
_PAUSE_S = 0.05


class WorkerOutput:
    """Reads the pipe of a worker's stdout and stderr on a thread, until its end."""

    def __init__(self, name: str, pipe: IO[bytes]) -> None:
        self._name = name
        self._pipe = pipe
        self._tail = b""
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"output-{name}", daemon=True)
        self._thread.start()

    def tail(self, timeout_s: float = 1.0) -> str:
        """Return the last lines of a worker that has ended."""
        self._thread.join(timeout_s)
        return "\n".join(_lines(self._tail)[-_MAX_LINES:])

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), _CHUNK):
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
            self._log(_lines(chunk))
            if len(chunk) == _CHUNK:
                self._pause.wait(_PAUSE_S)
        self._pipe.close()

    def _log(self, lines: list[str]) -> None:
        for line in lines[:_MAX_LINES]:
            logger.info("worker %s: %s", self._name, line)
        if len(lines) > _MAX_LINES:
            logger.info("worker %s: and %d more lines", self._name, len(lines) - _MAX_LINES)


def _lines(output: bytes) -> list[str]:
    """Return the lines without control characters: a module must not forge lines of the log."""
    lines = output.decode(errors="replace").splitlines()
    return ["".join(char if char.isprintable() else "?" for char in line) for line in lines if line.strip()]
