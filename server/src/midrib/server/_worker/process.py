"""A worker process, as the server's process sees it. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, cast

from midrib.server._worker import bootstrap
from midrib.server._worker.channel import Channel
from midrib.server._worker.messages import BatchReply, BatchRequest
from midrib.server._worker.output import WorkerOutput
from midrib.server._worker.shared_buffer import SharedBuffer
from midrib.wire import InternalError

# Linux kills a worker when the thread that started it ends, so one thread that lasts starts all of them.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="worker-spawner")
# How often a wait looks whether the process still runs: its end of the channel may be open in a process it forked.
_LOOK_S = 1.0
_BOOTSTRAP = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    f"from {bootstrap.__name__} import main; main(given)"
)


class WorkerDiedError(InternalError):
    """The worker process ended, or was ended because it took too long."""

    default_reason = "WORKER_DIED"

    def explained(self) -> str:
        """Return the message with the worker's last lines, for the log."""
        return "\n".join([self.message, *getattr(self, "__notes__", [])])


class BatchTooLongError(WorkerDiedError):
    """A batch exceeded its time limit, so its worker was ended."""


class BatchFailedError(RuntimeError):
    """The module raised in the worker; the text is the worker's traceback."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker runs.

    name: for messages.  entry: "module:function", which gets the request and returns what `loop.Hosted` describes.
    request: made of JSON's types.
    """

    name: str
    entry: str
    request: dict[str, Any]


class WorkerProcess:
    """One running worker. `kill` ends it with all that it started; so does dropping the last reference."""

    def __init__(self, spec: WorkerSpec, buffers: Sequence[SharedBuffer]) -> None:
        self._name = spec.name
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _SPAWNER.submit(
                _spawn, spec.entry, theirs, [buffer.descriptor for buffer in buffers]
            ).result()
        self._output = WorkerOutput(spec.name, cast(IO[bytes], self._process.stdout))
        self._channel = Channel(ours)
        self._receiving = threading.Lock()
        self._replies: dict[int, BatchReply] = {}
        self._busy_since = 0.0
        self._dead = False
        self._end = weakref.finalize(self, _kill, self._process, self._channel)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether it was found dead, or killed."""
        return self._dead

    def call(self, request: Any) -> Any:
        """Send a request made of JSON's types; return the reply, however long it takes.

        Raises the exception that the worker answers with, WorkerDiedError if it ends instead.
        """
        self._send(json.dumps(request).encode())
        failed, value = pickle.loads(self._next(None))  # noqa: S301 - our own child, before it has computed anything
        if failed:
            raise value
        return value

    def send_batch(self, request: BatchRequest) -> None:
        """Hand a staged batch over; a worker that is dead is found out by `receive`."""
        with contextlib.suppress(WorkerDiedError):
            self._send(request.encode())

    def receive(self, number: int, *, limit_s: float) -> BatchReply:
        """Wait for the reply to a batch; replies to other batches are kept for those that wait for them.

        limit_s: the batch may compute so long, counted from the reply before it.
        Raises WorkerDiedError once the process has ended or the limit has passed; the process is dead by then.
        """
        sent = time.monotonic()
        with self._receiving:
            while number not in self._replies:
                reply = self._decoded(self._next(max(sent, self._busy_since) + limit_s))
                self._busy_since = time.monotonic()
                self._replies[reply.number] = reply
            return self._replies.pop(number)

    def kill(self) -> None:
        """End the process, and those that it started in its session."""
        self._dead = True
        self._end()

    def _send(self, message: bytes) -> None:
        try:
            self._channel.send(message)
        except OSError:
            raise self._death() from None

    def _decoded(self, message: bytes) -> BatchReply:
        try:
            return BatchReply.decode(message)
        except ValueError:
            raise self._death("sent a damaged message") from None

    def _next(self, end: float | None) -> bytes:
        """Return the next message; `end` on time.monotonic."""
        while not self._dead:
            left_s = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
            try:
                return self._channel.receive(max(left_s, 1e-3))
            except TimeoutError:
                if end is not None and time.monotonic() >= end:
                    raise self._death("exceeded the time limit of a batch", BatchTooLongError) from None
                if _has_ended(self._process.pid):
                    break
            except (EOFError, OSError):
                break
        raise self._death()

    def _death(self, how: str = "", kind: type[WorkerDiedError] = WorkerDiedError) -> WorkerDiedError:
        """Kill whatever is left and say how it ended."""
        self.kill()
        how = how or _how_it_ended(self._process.wait())  # another thread may be killing it
        error = kind(f"the worker process of {self._name} {how}")
        if tail := self._output.tail():
            error.add_note(f"its last lines:\n{tail}")
        return error


def _spawn(entry: str, channel: socket.socket, buffers: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a worker; not a fork, since locks of other threads would stay locked in it."""
    arguments = {"path": sys.path, "entry": entry, "channel": channel.fileno(), "buffers": list(buffers)}
    command = [sys.executable, "-c", _BOOTSTRAP, json.dumps({**arguments, "parent": os.getpid()})]
    return subprocess.Popen(
        command,  # noqa: S603 - this interpreter
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[channel.fileno(), *buffers],
        start_new_session=True,  # Ctrl-C in a terminal is for the server, which drains
    )


def _kill(process: subprocess.Popen[bytes], channel: Channel) -> None:
    """Kill the process's group before it is reaped: until then nothing else can have its number."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    channel.close()


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    return f"was killed by {signal.Signals(-status).name}"
