"""The process's event loop, on a thread that owns every channel and stream.

gRPC does not survive a fork: its threads are missing in the child, and a call there never ends. So everything is closed
just before a fork (measured: 5 ms, all of gRPC's threads end) and opened again, in parent and child, at the next call.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import grpc

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.certificates import Certificates, CertificateStore
from midrib.remote._connect.dns import MAX_MACHINES
from midrib.remote._connect.pending_result import LoopCall
from midrib.remote._connect.transport import grpc_threads, new_loop, open_channel
from midrib.wire import UnavailableError

_T = TypeVar("_T")
# Seconds that a fork waits for gRPC's threads. If another part of the process uses gRPC they stay: a child cannot call.
_THREADS_END_S: Final = 0.5
_CLOSING_S: Final = 5.0
# Seconds in which gRPC reports the end of cancelled calls to their loop: it cannot do so after the loop has closed, and
# its threads stay until then.
_CANCELLED_S: Final = 0.02
# Seconds for one attempt to connect: few, so that a restarted machine is found soon, and more after each time-out.
_CONNECT_S: Final = 1.0
_MAX_CONNECT_S: Final = 20.0
# Calls have this long to finish on a channel whose certificates were renewed, or that is the oldest of many.
_FINISH_S: Final = 60.0


class StreamOwner(Protocol):
    """An object that keeps streams open on the loop."""

    async def close_streams(self) -> None:
        """End every stream on the loop; items without a result stay queued."""
        ...

    def resume(self) -> None:
        """Send the queued messages; called in the parent after a fork."""
        ...

    def forget(self) -> None:
        """Drop the calls of the parent process; called in a forked child."""
        ...


class _Key(NamedTuple):
    """The server of a channel.

    name: the host that the address was looked up from.  number: which of the endpoint's connections to the address.
    """

    address: str
    endpoint: Endpoint
    name: str | None
    number: int


class _Open(NamedTuple):
    """A channel, and the certificates that it was opened with."""

    channel: grpc.aio.Channel
    certificates: Certificates | None


class Runtime:
    """The loop, its thread and its channels. Get it by `runtime()`."""

    def __init__(self) -> None:
        self.loop = new_loop()
        self._channels: dict[_Key, _Open] = {}
        self._certificates = CertificateStore()
        self._connect_s: dict[_Key, float] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._accepts = True
        self._calls: set[LoopCall[Any]] = set()
        self._start_lock = threading.RLock()  # a signal handler may start work while its thread holds the lock
        self._thread = threading.Thread(target=self._run, name="midrib-remote", daemon=True)
        self._thread.start()

    def channel(
        self, address: str, endpoint: Endpoint, name: str | None = None, *, number: int = 0
    ) -> grpc.aio.Channel:
        """Return the process's channel to an address, which was looked up from a name. On the loop only.

        number: which of the endpoint's connections to this address. Raises OSError if certificates cannot be read.
        """
        key = _Key(address, endpoint, name, number)
        certificates = None if endpoint.tls is None else self._certificates.current(endpoint.tls)
        current = self._channels.pop(key, None)
        if current is not None and current.certificates == certificates:
            self._channels[key] = current  # the last: the dict is in the order of use
            return current.channel
        if current is not None:  # its calls may finish
            self._close_later(current.channel, _FINISH_S)
        channel = open_channel(address, certificates, name, connect_s=self._connect_s.get(key, _CONNECT_S))
        self._channels[key] = _Open(channel, certificates)
        self._close_oldest(key)
        return channel

    def _close_oldest(self, key: _Key) -> None:
        """Close the channels to earlier machines of a name, whose records change: gRPC would reconnect each forever."""
        siblings = [other for other in self._channels if other[1:] == key[1:]] if key.name else []
        for oldest in siblings[: -2 * MAX_MACHINES]:
            self._connect_s.pop(oldest, None)
            self._close_later(self._channels.pop(oldest).channel, _FINISH_S)

    def drop(self, channel: grpc.aio.Channel) -> None:
        """Close a channel whose connection is dead; the next call opens another. On the loop only.

        Does nothing for a channel that was dropped before.
        """
        for key in self._keys(channel):
            del self._channels[key]
            self._close_later(channel, None)

    def allow_longer_connect(self, channel: grpc.aio.Channel) -> None:
        """Replace a channel that could not connect in time by one that tries three times as long."""
        for key in self._keys(channel):
            self._connect_s[key] = min(_MAX_CONNECT_S, 3 * self._connect_s.get(key, _CONNECT_S))
        self.drop(channel)

    def _keys(self, channel: grpc.aio.Channel) -> list[_Key]:
        return [key for key, current in self._channels.items() if current.channel is channel]

    def _close_later(self, channel: grpc.aio.Channel, grace_s: float | None) -> None:
        closing = self.loop.create_task(channel.close(grace_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def start(self, work: Coroutine[Any, Any, _T]) -> LoopCall[_T]:
        """Run a coroutine on the loop, from any thread. It is abandoned if the loop closes first, or is closing."""
        call = LoopCall(work, self.loop)
        with self._start_lock:
            accepts = self._accepts
            if accepts:
                self._calls.add(call)
                self.soon(call.begin)
        if not accepts:
            work.close()
            call.leave()
        call.when_done(partial(self._calls.discard, call))
        return call

    def soon(self, callback: Callable[[], object]) -> None:
        """Run a callback in the loop's next iteration, from any thread."""
        self.loop.call_soon_threadsafe(callback)

    def close(self) -> None:
        """End the streams, the channels, the loop and its thread."""
        if threading.current_thread() is self._thread:
            return
        with self._start_lock:  # all work that was accepted is on the loop now, and `_close` cancels it
            self._accepts = False
        closing = LoopCall(self._close(), self.loop)
        self.soon(closing.begin)
        closing.wait(_CLOSING_S)  # a loop that hangs must not delay a fork or an exit for longer
        self.soon(self.loop.stop)
        self._thread.join(_CLOSING_S)
        for call in list(self._calls):  # left by a loop that hangs
            call.leave()
        if not self._thread.is_alive():
            self.loop.close()

    async def _close(self) -> None:
        for owner in _owners():
            await owner.close_streams()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for current in self._channels.values():
            await current.channel.close()
        self._channels.clear()
        if tasks:
            await asyncio.sleep(_CANCELLED_S)

    def _run(self) -> None:
        _on_loop.runtime = self
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


_lock = threading.RLock()  # held while a runtime starts, and over a fork
_owners_lock = threading.RLock()  # a signal handler may call while its thread holds the lock
_on_loop = threading.local()
_current: Runtime | None = None
_exiting = False
_forking_thread: int | None = None
_stream_owners: weakref.WeakSet[StreamOwner] = weakref.WeakSet()


def runtime() -> Runtime:
    """Return this process's runtime, started if need be.

    Raises UnavailableError once the interpreter exits, in a signal handler that interrupts a fork, and if the process
    may not open the files of a loop; RuntimeError if it may not start a thread.
    """
    while (running := _current) is None:
        if _exiting:
            raise UnavailableError("the interpreter is exiting: make no calls from __del__ or late exit handlers")
        if _forking_thread == threading.get_ident():
            raise UnavailableError("this thread is forking the process: make no calls from a signal handler meanwhile")
        # In another thread, because a signal handler may interrupt this one at any step, and start a runtime too.
        failures: list[Exception] = []
        starter = threading.Thread(target=_start, args=(failures,))
        starter.start()
        starter.join()
        if failures:
            raise UnavailableError(f"cannot start an event loop ({failures[0]}): close files, or end threads")
    return running


def _start(failures: list[Exception]) -> None:
    """Start the runtime, or append the reason why that is not possible."""
    global _current
    with _lock:
        if _current is None and not _exiting:
            try:
                _current = Runtime()
            except (OSError, RuntimeError) as error:
                failures.append(error)


def current_runtime() -> Runtime:
    """Return the runtime whose loop runs this, even if it is about to close. On the loop only; does not wait."""
    runtime: Runtime = _on_loop.runtime
    return runtime


def register(owner: StreamOwner) -> None:
    """Have an owner's streams closed before a fork and at exit."""
    with _owners_lock:
        _stream_owners.add(owner)


def _owners() -> list[StreamOwner]:
    with _owners_lock:
        return list(_stream_owners)


def _close_current() -> None:
    global _current
    closing, _current = _current, None
    if closing is not None:
        closing.close()


def _exit() -> None:
    global _exiting
    _exiting = True
    _close_current()


def _before_fork() -> None:
    global _forking_thread
    _lock.acquire()  # held over the fork: no other thread may start a runtime in between
    _forking_thread = threading.get_ident()
    if _current is None:
        return
    _close_current()
    gc.collect()  # gRPC's objects sit in cycles, and its threads end with the last of them
    until = time.monotonic() + _THREADS_END_S
    while grpc_threads() and time.monotonic() < until:
        time.sleep(0.001)


def _after_fork() -> None:
    global _forking_thread
    _forking_thread = None
    _lock.release()


def _after_in_parent() -> None:
    _after_fork()
    for owner in _owners():
        owner.resume()


def _after_in_child() -> None:
    _after_fork()
    for owner in _owners():
        owner.forget()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
