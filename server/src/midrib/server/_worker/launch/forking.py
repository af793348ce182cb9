"""The server's side of the process that has imported torch and forks workers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from midrib.server._child_process import command
from midrib.server._worker.launch import zygote
from midrib.server._worker.launch.processes import Program, in_lasting_thread
from midrib.server._worker.priority import can_lower, raise_priority, raise_thread

# The first answer comes after the import of torch, which may take long from a cold disk.
_FIRST_ANSWER_S = 120.0
_ANSWER_S = 10.0
# A process of low priority hardly advances while other work uses all cores: after this time its priority is raised.
_MAX_LOW_S = 0.1
# The end of a backbone, and of the server, waits for this.
_REAP_S = 3.0
_END_S = 10.0


def can_fork() -> bool:
    """Return whether this module works on this system: Linux 5.3 and later."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return sys.platform == "linux"


class ForkError(RuntimeError):
    """The process that forks workers refused to, has ended, or does not answer."""


class Forker:
    """A process that has imported a module, and forks workers. It ends with this process.

    It has one thread and has not used a GPU, so that a fork of it is safe. Any thread may call the methods.
    """

    def __init__(self, module: str) -> None:
        self._worked = threading.Event()
        self._asking = threading.Lock()
        self._socket, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other_end:
            self._process = in_lasting_thread(partial(_spawn, module, other_end.fileno()))
        # Workers are finalized before it: at the end of the interpreter the last finalizer runs first.
        self._end = weakref.finalize(self, _end, self._socket, self._process, self._worked)

    @property
    def worked(self) -> bool:
        """Whether it has answered."""
        return self._worked.is_set()

    @property
    def lost(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def fork(self, program: Program, channel: int) -> ForkedProcess:
        """Start a worker. Raises ForkError; OSError if the system refuses a pipe.

        channel: the descriptor of the worker's end. Use it for this attempt only: after an error a worker may have it,
        which ends once the other end is closed.
        """
        descriptors = program.all_descriptors(channel)
        surroundings = {"environment": dict(os.environ), "folder": _folder()}
        request = _file_of({"numbers": descriptors, "arguments": program.arguments(channel), **surroundings})
        read, write = os.pipe()
        with contextlib.ExitStack() as on_error:
            output = on_error.enter_context(os.fdopen(read, "rb"))
            try:
                with request:
                    pid = self._ask({"fork": program.entry}, [request.fileno(), write, *descriptors])
            finally:
                os.close(write)
            process = ForkedProcess(self, pid, output)
            on_error.pop_all()
        return process

    def close(self) -> None:
        """End the process, and the workers that it has forked."""
        self._end()

    def reap(self, pid: int) -> int | None:
        """Return the status of a worker that has ended; None if it is not known."""
        try:
            status: int | None = self._ask({"reap": pid}, max_s=_REAP_S)
        except ForkError:
            return None
        return status

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = (), *, max_s: float | None = None) -> Any:
        """Return the answer to a request; end the process if it gives none in time. Raises ForkError."""
        with self._asking:
            end = time.monotonic() + ((max_s or _ANSWER_S) if self.worked else _FIRST_ANSWER_S)
            self._socket.settimeout(_MAX_LOW_S)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
                answer = json.loads(self._receive(end))
            except (OSError, ValueError) as error:
                self._process.kill()
                self._process.wait()
                raise ForkError(f"the process that forks them does not answer: {error!r}") from error
            self._worked.set()
        if "error" in answer:
            raise ForkError(f"the process that forks them failed: {answer['error']}")
        return answer["value"]

    def _receive(self, end: float) -> bytes:
        """Return the answer. Raises TimeoutError at `end`, on time.monotonic; OSError if the process has ended."""
        while True:
            try:
                return self._socket.recv(zygote.MESSAGE_BYTES)
            except TimeoutError:
                if time.monotonic() >= end:
                    raise
                if can_lower():
                    raise_thread(self._process.pid)


def _folder() -> str:
    """Return the working folder; "/" if it has been deleted."""
    try:
        return str(Path.cwd())
    except OSError:
        return "/"


def _file_of(request: dict[str, Any]) -> IO[bytes]:
    """Return an anonymous file with a request in JSON."""
    file = os.fdopen(os.memfd_create("midrib-request"), "wb")
    file.write(json.dumps(request).encode())
    file.flush()
    return file


def _spawn(module: str, control: int) -> subprocess.Popen[bytes]:
    arguments = {"control": control, "module": module, "low_priority": can_lower()}
    return subprocess.Popen(
        command(zygote.__name__, arguments),  # noqa: S603 - this interpreter
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's BLAS would start threads at its import
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control],
        process_group=0,
    )


def _end(control: socket.socket, process: subprocess.Popen[bytes], worked: threading.Event) -> None:
    """End the process, which ends its workers first; at once if it has none because it still imports the module."""
    control.close()
    if not worked.is_set():
        process.kill()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class ForkedProcess:
    """A process that was forked by another one. Implements `LaunchedProcess`."""

    def __init__(self, forker: Forker, pid: int, output: IO[bytes]) -> None:
        self._forker = forker
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self.output = output
        self._ending = threading.Lock()
        self._over = False
        self._status: int | None = None

    def has_ended(self) -> bool:
        """Return whether it has ended, without reaping it."""
        return self._over or self._ended_within(0.0)

    def end(self) -> int | None:
        """Kill it and the processes of its group; return its status."""
        with self._ending:
            if not self._over:
                self._kill()
                self._ended_within(_END_S)
                self._status = self._forker.reap(self.pid)
                self._over = True
                os.close(self._pidfd)
        return self._status

    def _kill(self) -> None:
        """Kill its group while its id cannot belong to another process; it has no group in its first moments."""
        if not (self._forker.lost and self._ended_within(0.0)):
            raise_priority(self.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _ended_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(1000 * seconds))
