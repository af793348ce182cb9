"""A process that imports a module once and then forks workers, each of which starts with the module imported.

It has a single thread, uses no GPU and runs no code of a user. So a fork of it is like a fresh process.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from midrib.server._child_process import adopt_orphans, ending_with_parent
from midrib.server._worker import bootstrap
from midrib.server._worker.priority import lower_priority, raise_thread

MESSAGE_BYTES = 1 << 12
_MAX_DESCRIPTORS = 250
# How often it checks whether the server's process still exists: a fork of that process may keep the socket open.
_LOOK_S = 1.0
# A module may replace `os._exit`. Without this reference, a worker whose module did would continue to fork workers.
_exit = os._exit


def main(arguments: dict[str, Any]) -> None:
    """Import a module, then fork and reap workers until the other end of the socket is closed.

    arguments: `module`; `control`, the descriptor of the socket; `low_priority`, whether it forks at low priority.
    """
    control, module = arguments["control"], arguments["module"]
    adopt_orphans()
    with ending_with_parent():  # the socket is not read during the import, which may take seconds
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector of a worker would write to the memory that all of them share
    zygote = _Zygote(socket.socket(fileno=control), low_priority=arguments["low_priority"])
    try:
        zygote.run()
    finally:
        zygote.kill_all()
    os._exit(0)


class _Zygote:
    """Answers requests, one at a time.

    control: the socket of the server's process.
    low_priority: whether it forks at low priority. A fork takes some milliseconds in the kernel; otherwise a serving
    thread may wait for its core all that time.
    """

    def __init__(self, control: socket.socket, *, low_priority: bool) -> None:
        self._control = control
        self._low_priority = low_priority
        self._parent = os.getppid()
        self._children: set[int] = set()

    def run(self) -> None:
        """Answer until the server's process is gone."""
        while os.getppid() == self._parent:
            if not select.select([self._control], [], [], _LOOK_S)[0]:
                continue
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not message:
                return
            try:
                answer: dict[str, Any] = {"value": self._answer(json.loads(message), descriptors)}
            except Exception as error:  # noqa: BLE001 - the workers that run need this process
                answer = {"error": f"{type(error).__name__}: {error}"}
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            self._control.send(json.dumps(answer).encode())

    def kill_all(self) -> None:
        """Kill the workers, with all processes that they have started."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):  # in its first moments it has no group
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        self._children.clear()
        self._kill_orphans()

    def _answer(self, request: dict[str, Any], descriptors: list[int]) -> int | None:
        if "reap" in request:
            return self._reap(request["reap"])
        if self._low_priority:
            lower_priority()
        try:
            return self._fork(descriptors)
        finally:
            if self._low_priority:
                raise_thread(0)

    def _fork(self, descriptors: list[int]) -> int:
        """Fork this process. Raises RuntimeError if it has several threads."""
        request = _read(descriptors[0])
        os.close(descriptors.pop(0))  # the worker has no use for it
        if (threads := len(os.listdir("/proc/self/task"))) != 1:
            raise RuntimeError(f"a process of {threads} threads cannot be forked safely")
        pid = os.fork()
        if pid == 0:
            try:
                self._control.close()
                _become_worker(request, descriptors)
            except BaseException:  # noqa: BLE001 - nothing of the other process's work may run here
                traceback.print_exc()
            _exit(1)
        self._children.add(pid)
        return pid

    def _reap(self, pid: int) -> int | None:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if not reaped:
            return None
        self._children.discard(pid)
        self._kill_orphans()
        return os.waitstatus_to_exitcode(status)

    def _kill_orphans(self) -> None:
        """Kill the processes that dead workers have left in other process groups, such as daemons.

        The system makes them children of this process. Daemons of a running worker are children of that worker.
        """
        while orphans := _children() - self._children:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """Return the ids of this process's children; an empty set if /proc does not have them."""
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    except OSError:
        return set()


def _read(descriptor: int) -> dict[str, Any]:
    """Return the request that a file holds. An environment of some megabytes does not fit into a message."""
    request: dict[str, Any] = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    return request


def _become_worker(request: dict[str, Any], descriptors: list[int]) -> None:
    """Give this process the group, files, environment, folder and random numbers of a fresh one; run the worker."""
    if request["arguments"]["low_priority"]:
        lower_priority()  # first: half of the time of a restart is spent before the worker's own code
    os.setpgid(0, 0)
    output, *files = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    _renumber(files, request["numbers"])
    os.environ.clear()
    os.environ.update(request["environment"])
    with contextlib.suppress(OSError):  # the folder may have been deleted since
        os.chdir(request["folder"])
    sys.path[:] = request["arguments"]["path"]
    np.random.seed()  # otherwise all workers would draw the same numbers
    bootstrap.main(request["arguments"])


def _renumber(descriptors: list[int], numbers: list[int]) -> None:
    """Give each open file the number that it has in the server's process."""
    above = max([*descriptors, *numbers], default=0) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
