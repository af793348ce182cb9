"""Choose how to start a worker process."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

from midrib.server._worker.launch.forking import Forker, ForkError, can_fork
from midrib.server._worker.launch.processes import LaunchedProcess, Program, SpawnedProcess

logger = logging.getLogger(__name__)

CAN_FORK = can_fork()
_CHOOSING = threading.Lock()
# The keys have the id of this process, because a fork of it must not use the same ones, and the module of the entry.
_FORKERS: dict[tuple[int, str], Forker] = {}
_UNUSABLE: set[tuple[int, str]] = set()


def launch(program: Program) -> tuple[LaunchedProcess, socket.socket]:
    """Start a worker; return it and the server's end of its channel.

    The worker is a fork of a process that has imported its module, or a new interpreter if that is impossible.
    Raises OSError if the system starts no process.
    """
    key = os.getpid(), program.module
    if CAN_FORK and key not in _UNUSABLE:
        try:
            return _connected(program, _forker(key).fork)
        except (ForkError, OSError) as error:
            logger.info("a worker starts as an interpreter, which takes longer: %s", error)
    return _connected(program, SpawnedProcess)


def start_forking(module: str) -> None:
    """Start the process that forks workers, so that it imports their module before the first worker is needed.

    Otherwise the first worker starts that process. Errors are not raised here: the first worker meets them again.
    """
    key = os.getpid(), module
    if CAN_FORK and key not in _UNUSABLE:
        with contextlib.suppress(ForkError, OSError):
            _forker(key)


def _connected(
    program: Program, start: Callable[[Program, int], LaunchedProcess]
) -> tuple[LaunchedProcess, socket.socket]:
    server_end, worker_end = socket.socketpair()
    with worker_end, contextlib.ExitStack() as on_error:
        on_error.enter_context(server_end)
        process = start(program, worker_end.fileno())
        on_error.pop_all()
    return process, server_end


def _forker(key: tuple[int, str]) -> Forker:
    """Return the process that forks. Raises ForkError if the last one ended before it forked a worker."""
    with _CHOOSING:
        forker = _FORKERS.get(key)
        if forker is None or forker.lost:
            if forker is not None:
                forker.close()
                _check(forker, key)
            forker = _FORKERS[key] = Forker(key[1])
        return forker


def _check(lost: Forker, key: tuple[int, str]) -> None:
    """Raise ForkError if the process that forks cannot import the function."""
    if not lost.worked:
        _UNUSABLE.add(key)
        raise ForkError(f"{key[1]} cannot be imported by the process that forks")
