"""The end of the process, whatever the code of a backbone does: a thread that hangs cannot be ended from outside."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def watchdog() -> Iterator[Callable[[float], None]]:
    """Yield a function that ends the process, with status 0, unless it has ended within that many seconds.

    A later call replaces the time of an earlier one. An exception that leaves the block disarms it: the process then
    ends with that error's status, unless a thread that is left keeps it, which the last time given bounds.
    """
    timers: list[threading.Timer] = []

    def exits_within(seconds: float) -> None:
        for timer in timers:
            timer.cancel()
        timer = threading.Timer(seconds, _exit)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    yield exits_within


def _exit() -> None:
    """Flush what can be flushed and end the process; other threads are not waited for."""
    names = sorted(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
    logger.warning("ending the process although threads still run: %s", ", ".join(names))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or on a full disk
            continue
    os._exit(0)
