"""A front process as the engine sees it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from midrib.server._child_process import command
from midrib.server._front.calls import Calls
from midrib.server._front.limits import FrontLimits
from midrib.server._front.listener import PortTls
from midrib.server._front.processes import process
from midrib.server._front.processes.link import Handler, Link, for_call
from midrib.server._front.processes.ports import SharedPort
from midrib.server._front.processes.records import (
    FromEngine,
    decode_count,
    decode_open,
    decode_refusal,
)
from midrib.server._front.processes.remote_stream import RemoteStream

# The bytes of a record of a front process beside the message, or the headers of a call, in it.
_RECORD_BYTES = 64 * 1024
# A call whose headers have four times the limit is refused by the engine. JSON writes each byte with up to six.
BYTES_PER_METADATA_BYTE = 32
_END_S = 5.0


@dataclass(frozen=True)
class FrontPort:
    """A port of front processes. shared: the port.  tls: None without TLS."""

    shared: SharedPort
    tls: PortTls | None


@dataclass(frozen=True)
class FrontEvents:
    """The functions that a front process calls.

    ready: called once it accepts connections.  ended: once the process is gone.  log: with each record of its log.
    """

    ready: Callable[[], None]
    ended: Callable[[], None]
    log: Callable[[bytes], None]


class Front:
    """A running front process. Raises OSError if the system starts no process.

    is_ready: whether it accepts connections.  connections: their number.
    """

    def __init__(self, ports: Sequence[FrontPort], limits: FrontLimits, calls: Calls, events: FrontEvents) -> None:
        self.is_ready = False
        self.connections = 0
        self._calls = calls
        self._events = events
        self._streams: dict[int, RemoteStream] = {}
        engine_end, front_end = socket.socketpair()
        with front_end, contextlib.ExitStack() as on_error:
            on_error.enter_context(engine_end)
            self._process = _start(ports, limits, front_end)
            on_error.pop_all()
        self._link = Link(
            engine_end, limits.max_message_bytes + BYTES_PER_METADATA_BYTE * limits.max_metadata_bytes + _RECORD_BYTES
        )
        self._link.start(self._handlers(), self._is_gone)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def calls(self) -> int:
        """The number of calls that run."""
        return len(self._streams)

    def drain(self) -> None:
        """Have it accept no connections, ask clients to go, and end after the last connection."""
        self._link.send(FromEngine.DRAIN, 0)

    def close(self) -> None:
        """Have it end all connections. Their clients may read the last bytes."""
        self._link.send(FromEngine.CLOSE, 0)

    def kill(self) -> None:
        """End the process now."""
        self._link.close()
        self._is_gone()

    def _handlers(self) -> Sequence[Handler]:
        """Return the functions that handle the records of the process, in the order of their kinds."""

        def for_stream(act: Callable[[RemoteStream, Any], object]) -> Handler:
            return for_call(self._streams, act)

        return (
            self._is_started,
            self._count,
            self._open,
            for_stream(RemoteStream.receive),
            for_stream(lambda stream, payload: stream.refuse(decode_refusal(payload))),
            for_stream(lambda stream, _: stream.receive_end()),
            for_stream(lambda stream, _: stream.lost()),
            for_stream(lambda stream, payload: stream.sent(decode_count(payload))),
            for_stream(lambda stream, _: stream.finished()),
            lambda _number, payload: self._events.log(payload),
        )

    def _is_started(self, _number: int, _payload: bytes) -> None:
        self.is_ready = True
        self._events.ready()

    def _count(self, _number: int, payload: bytes) -> None:
        self.connections = decode_count(payload)

    def _open(self, number: int, payload: bytes) -> None:
        """Note a new call. Raises ValueError if its number is open already."""
        if number in self._streams:
            raise ValueError(f"the call {number} is open already")
        peer, head = decode_open(payload)
        stream = self._streams[number] = RemoteStream(number, head, self._link)

        def ended() -> None:
            self._streams.pop(number, None)
            stream.handler_ended()

        self._calls.start(stream, peer, ended)

    def _is_gone(self) -> None:
        self.connections = 0
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        for stream in list(self._streams.values()):
            stream.lost()
        self._events.ended()


def _start(ports: Sequence[FrontPort], limits: FrontLimits, link: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process. Raises OSError if the system refuses it, or a socket of the port."""
    sockets = [each for port in ports for each in port.shared.sockets()]
    tls = next((port.tls for port in ports), None)
    files = None if tls is None else (tls.files.certificate, tls.files.key, tls.files.client_ca)
    descriptors = [each.fileno() for each in sockets]
    arguments = {
        "parent": os.getpid(),
        "link": link.fileno(),
        "sockets": descriptors,
        "limits": asdict(limits),
        "tls": None if files is None else [None if path is None else str(path) for path in files],
    }
    try:
        return subprocess.Popen(
            command(process.__name__, arguments),  # noqa: S603 - this interpreter
            stdin=subprocess.DEVNULL,
            pass_fds=[link.fileno(), *descriptors],
            start_new_session=True,
        )
    finally:
        for each in sockets:
            each.close()
