"""End the process also if a thread of a backbone hangs, which cannot be ended from outside."""

from __future__ import annotations

import logging
import os
import sys
import threading

logger = logging.getLogger(__name__)


class ExitWatchdog:
    """Ends the process, with status 0, unless it ends within a time limit."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def exits_within(self, seconds: float) -> None:
        """End the process after some seconds from now; a later call replaces an earlier one."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, _exit)
        self._timer.daemon = True
        self._timer.start()


def _exit() -> None:
    """Flush the logs and streams and end the process, without waiting for other threads."""
    names = sorted(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
    logger.warning("ending the process although threads still run: %s", ", ".join(names))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or on a full disk
            continue
    os._exit(0)
