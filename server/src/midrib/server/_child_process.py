"""The start of a process of this server, and how it ends with its parent. Imports nothing that takes time."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import sys
import termios
from collections.abc import Iterator, Mapping
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


def command(module: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the command that calls `main` of a module in another interpreter, with the same import path.

    arguments: for `main`, of JSON's types.
    """
    code = "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    start = f"{code}from {module} import main; main(given)"
    return [sys.executable, "-c", start, json.dumps({"path": import_path(), **arguments})]


def import_path() -> list[str]:
    """Return the strings of `sys.path`. The import system ignores other entries, and JSON cannot hold all of them."""
    return [entry for entry in sys.path if isinstance(entry, str)]


def set_name(name: str) -> None:
    """Name this process in `ps` and `top`, with 15 characters at most. Linux only."""
    _control(_PR_SET_NAME, name.encode())


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when the thread that started it ends; end now if `parent` is gone."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


@contextlib.contextmanager
def ending_with_parent() -> Iterator[None]:
    """Have the system kill this process if the thread that started it ends meanwhile. Linux only."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    yield
    _control(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose parents have ended, such as daemons. Linux only."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def leave_terminal() -> None:
    """Give up the controlling terminal, such as the one of a server that was started in a shell.

    Otherwise the system stops a process outside the terminal's foreground group when it asks for a password there.
    """
    with contextlib.suppress(OSError):  # this process does not have one
        terminal = os.open("/dev/tty", os.O_RDWR)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


def _control(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
