"""A worker process, as the server's process sees it. No torch here."""

from __future__ import annotations

import json
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from midrib.server._engine.compute import WorkerPlan
from midrib.server._shared_memory.memory import ClientMemory
from midrib.server._worker import priority
from midrib.server._worker.channel import Channel
from midrib.server._worker.launch import LaunchedProcess, Program, launch
from midrib.server._worker.messages import NUMBER, STOP_MEASURING, MemoryChange, encode_plan, split_number
from midrib.server._worker.output import WorkerOutput
from midrib.server._worker.shared_buffer import SharedBuffer
from midrib.wire import InternalError

# How often a wait checks whether the process still runs: its end of the channel may be open in a process it forked.
_LOOK_S = 1.0
# The memories that a worker is asked to unmap before it replies. A channel holds fewer than 300 messages, and a batch
# that cannot be sent because it is full would look like the end of the worker.
_MAX_UNMAPPINGS = 32


class WorkerDiedError(InternalError):
    """The worker process ended, or was ended because it took too long."""

    default_reason = "WORKER_DIED"

    def explained(self) -> str:
        """Return the message with the worker's last lines, for the log."""
        return "\n".join([self.message, *getattr(self, "__notes__", [])])


class BatchTooLongError(WorkerDiedError):
    """A batch exceeded its time limit, so its worker was ended."""


@dataclass(frozen=True)
class WorkerSpec:
    """The work of a worker process.

    name: the worker's name in messages.  entry: "module:function", which gets the request and returns a `loop.Hosted`.
    request: made of JSON's types.  descriptors: the files that it inherits, under the same numbers.
    max_load_s: the most seconds for one request, to load or to prepare.
    """

    name: str
    entry: str
    request: dict[str, Any]
    descriptors: tuple[int, ...] = ()
    max_load_s: float | None = None


class WorkerProcess:
    """One running worker. `kill` ends it with all that it started; so does dropping the last reference."""

    def __init__(self, spec: WorkerSpec, buffers: Sequence[SharedBuffer]) -> None:
        self._name = spec.name
        self._max_load_s = spec.max_load_s
        descriptors = tuple(buffer.descriptor for buffer in buffers)
        self._process, server_end = launch(Program(spec.entry, descriptors, spec.descriptors))
        self._channel = Channel(server_end)
        self._dead = False
        self._measuring = False
        self._low_until = time.monotonic() + priority.MAX_LOW_S
        self._end = weakref.finalize(self, _end, self._process, self._channel)
        self._output = WorkerOutput(spec.name, self._process.output)  # raises if no thread can be started

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether it was found dead, or killed."""
        return self._dead

    def call(self, request: Any) -> Any:
        """Send a request made of JSON's types; return the reply.

        Raises the exception that the worker answers with, WorkerDiedError if it ends or takes too long instead.
        """
        try:
            self._channel.send(json.dumps(request).encode())
        except OSError:
            raise self.death() from None
        end = inf if self._max_load_s is None else time.monotonic() + self._max_load_s
        failed, value = self._read(self._next(end))
        if failed:
            raise value
        return value

    def send_batch(self, number: int, place: bytes) -> None:
        """Hand a staged batch over, by its number and its encoded place; raises OSError if the process is gone."""
        self._channel.send(NUMBER.pack(number) + place)

    def map_memory(self, memory: ClientMemory) -> None:
        """Have the process map a client's memory. Raises OSError if it is gone, or too many descriptors are sent."""
        self._channel.send_with_descriptor(MemoryChange(True, memory.number, len(memory)).encode(), memory.descriptor)

    def unmap_memory(self, number: int) -> None:
        """Have the process unmap a client's memory, which none of its batches uses; raises OSError if it is gone."""
        self._channel.send(MemoryChange(False, number).encode())

    def change_plan(self, plan: WorkerPlan | None) -> None:
        """Have the process use a compute plan, or measure it again if it is None; raises OSError if it is gone."""
        self._measuring = plan is None
        self._channel.send(encode_plan(plan))

    def stop_measuring(self) -> None:
        """End a measurement after its present pass; raises OSError if the process is gone.

        Further calls do nothing: the process reads no message during a pass, and the socket would fill up.
        """
        if self._measuring:
            self._measuring = False
            self._channel.send(STOP_MEASURING)

    def replies(self) -> list[tuple[int, bytes]]:
        """Return the replies that have arrived, each with the number of its batch, without waiting.

        Raises EOFError or OSError if the process is gone, ValueError for a message that is not a reply.
        """
        return [split_number(message) for message in self._channel.receive_ready()]

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a reply, and with the end of the process."""
        return self._channel.fileno()

    def has_ended(self) -> bool:
        """Return whether the process has ended; its end of the channel may be open in a process that it forked."""
        return self._dead or self._process.has_ended()

    def death(self, how: str = "", kind: type[WorkerDiedError] = WorkerDiedError) -> WorkerDiedError:
        """Kill the process and those that it started; return an error that says how it ended, with its last lines."""
        self.kill()
        how = how or _how_it_ended(self._process.end())
        error = kind(f"the worker process of {self._name} {how}")
        if tail := self._output.tail():
            error.add_note(f"its last lines:\n{tail}")
        return error

    def kill(self) -> None:
        """End the process, and those of its process group."""
        self._dead = True
        self._end()

    def _read(self, reply: bytes) -> tuple[bool, Any]:
        """Return whether the request failed, and the error or the value. Raises WorkerDiedError if it is damaged."""
        try:
            failed, value = pickle.loads(reply)  # noqa: S301 - our own child, before it has computed anything
        except Exception as error:
            raise self.death(f"sent a reply that cannot be read ({type(error).__name__})") from error
        return failed, value

    def _end_low_priority(self) -> None:
        """Give the process normal priority after its time at low priority.

        At each later call again: if other work uses all cores, the process may lower its own priority only now.
        """
        if time.monotonic() >= self._low_until:
            priority.raise_priority(self.pid)

    def _next(self, end: float) -> bytes:
        """Return the next message; raises WorkerDiedError. end: on time.monotonic."""
        while not self._dead:
            try:
                return self._channel.receive(max(1e-3, min(_LOOK_S, end - time.monotonic())))
            except TimeoutError:
                if time.monotonic() >= end:
                    raise self.death(f"did not load within {self._max_load_s:g} s (max_load_s)") from None
                if self.has_ended():
                    break
                self._end_low_priority()
            except ValueError:
                raise self.death("sent a damaged message") from None
            except (EOFError, OSError):
                break
        raise self.death()


def _end(process: LaunchedProcess, channel: Channel) -> None:
    process.end()
    channel.close()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "ended"
    if status >= 0:
        return f"exited with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


class MappedMemories:
    """The memories that one worker maps. All methods are for the event loop.

    on_lost: called if the worker cannot be reached; it then calls `close`.
    """

    def __init__(self, worker: WorkerProcess, on_lost: Callable[[], None]) -> None:
        self._worker = worker
        self._on_lost = on_lost
        self._memories: dict[int, weakref.finalize[..., ClientMemory]] = {}
        self._unmapped: list[int] = []
        self._unread = 0
        self._open = True

    def map(self, memory: ClientMemory) -> bool:
        """Return whether the worker maps a client's memory. The first call sends it the descriptor."""
        if memory.number not in self._memories:
            try:
                self._worker.map_memory(memory)
            except OSError:  # too many descriptors are on their way, or the worker is gone: then the batch's send fails
                return False
            self._memories[memory.number] = memory.when_unmapped(partial(self._unmap, memory.number))
        return True

    def worker_has_read(self) -> None:
        """Note that the worker has read all messages: it may be sent further unmappings."""
        self._unread = 0
        self._send_unmapped()

    def close(self) -> None:
        """Forget the memories: the worker has ended, or will."""
        self._open = False
        self._on_lost = lambda: None  # a cycle with its owner would keep the buffers until collected
        for unmapping in self._memories.values():
            unmapping.detach()

    def _unmap(self, number: int) -> None:
        if self._memories.pop(number, None) is not None:
            self._unmapped.append(number)
            self._send_unmapped()

    def _send_unmapped(self) -> None:
        try:
            while self._unmapped and self._unread < _MAX_UNMAPPINGS and self._open:
                self._unread += 1
                self._worker.unmap_memory(self._unmapped.pop())
        except OSError:
            self._on_lost()
