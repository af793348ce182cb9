"""A command prints a line within a second, and ends within a second of Ctrl-C, also while it imports libraries."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Seconds without output after which a command says what it is doing.
_SLOW_S = 0.7
# Seconds that a command has to end after Ctrl-C. Libraries catch the exception, or are slow to stop.
_CTRL_C_S = 0.7
# Seconds to write the last output: the reader of a pipe, such as a pager, may have stopped reading.
_FLUSH_S = 0.2
INTERRUPTED = 130  # the exit status that shells give to a command ended by Ctrl-C


@contextlib.contextmanager
def say_if_slow(text: str) -> Iterator[None]:
    """Print a line on stderr if the block takes longer than a moment, such as a call to a server that is silent."""
    timer = threading.Timer(_SLOW_S, lambda: print(text, file=sys.stderr, flush=True))  # noqa: T201 - its purpose
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Have the system end this process at once for Ctrl-C, without a traceback and without cleaning up.

    For imports: nothing is begun yet, and an import of torch would delay a handler of Python by seconds. It changes
    nothing if Ctrl-C is handled in another way or ignored, as by `nohup`.
    """
    if not _is_default():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_soon_after_ctrl_c(clean: Callable[[], object] = lambda: None) -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt and ends the process after a moment, also if that is caught.

    clean: called before such an end.
    """

    def end() -> None:
        clean()
        signal.setitimer(signal.ITIMER_REAL, _FLUSH_S)  # its SIGALRM ends the process
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed
                stream.flush()
        os._exit(INTERRUPTED)

    def end_soon(*_: object) -> None:
        """Raise KeyboardInterrupt; the process ends after a moment in any case."""
        atexit.register(end)  # the interpreter takes seconds to end with torch, and no thread runs meanwhile
        timer = threading.Timer(_CTRL_C_S, end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    if _is_default():
        signal.signal(signal.SIGINT, end_soon)


def _is_default() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
