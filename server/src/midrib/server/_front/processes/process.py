"""A front process: it accepts connections and forwards their calls to the engine. It imports no torch."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

from midrib.server._admission.tls import TlsFiles
from midrib.server._child_process import end_with_parent, set_name
from midrib.server._descriptors import DescriptorWatch
from midrib.server._front.connection import Http2Connection
from midrib.server._front.limits import FrontLimits
from midrib.server._front.listener import PortListener, tls_of
from midrib.server._front.processes.forwarding import ForwardedCall
from midrib.server._front.processes.link import Handler, Link, for_call
from midrib.server._front.processes.logs import ForwardingHandler
from midrib.server._front.processes.records import FromFront, decode_count, encode_count
from midrib.server._front.stream import Http2Stream
from midrib.server._large import Buffer

# The name of a front process in `ps` and `top`.
PROCESS_NAME = "midrib-front"
# A record of the engine has a message, or trailers, which are shorter than this.
_TRAILERS_BYTES = 2**20


def main(arguments: dict[str, Any]) -> None:
    """Run a front process until the engine ends it, or dies.

    arguments: `parent`, the process of the engine; the descriptors `link` and `sockets`; `limits`, the fields of
    FrontLimits; `tls`, the paths of the certificate, the key and the client CA, or null.
    """
    try:
        set_name(PROCESS_NAME)
        end_with_parent(arguments["parent"])
        for number in (signal.SIGINT, signal.SIGTERM):  # the engine drains its fronts
            signal.signal(number, signal.SIG_IGN)
        uvloop.run(_serve(arguments))
    except BaseException:  # noqa: BLE001 - the process ends here in every case
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


async def _serve(arguments: dict[str, Any]) -> None:
    limits = FrontLimits(**arguments["limits"])
    link = Link(socket.socket(fileno=arguments["link"]), limits.max_message_bytes + _TRAILERS_BYTES)
    loop = asyncio.get_running_loop()

    def send_log(payload: bytes) -> None:
        loop.call_soon_threadsafe(link.send, FromFront.LOG, 0, payload)

    logging.basicConfig(level=logging.WARNING, handlers=[ForwardingHandler(send_log)])
    front = ForwardingFront(limits, link)
    tls = None
    if arguments["tls"] is not None:
        certificate, key, client_ca = (None if path is None else Path(path) for path in arguments["tls"])
        if certificate is not None and key is not None:
            tls = tls_of(TlsFiles(certificate, key, client_ca))
    for descriptor in arguments["sockets"]:
        front.listener.add_socket(socket.socket(fileno=descriptor), tls)
    await front.serve()


class ForwardingFront:
    """Forwards the calls of its connections to the engine. Implements the owner of connections."""

    def __init__(self, limits: FrontLimits, link: Link) -> None:
        self.limits = limits
        self.listener = PortListener()
        self._link = link
        self._numbers = count()
        self._calls: dict[int, ForwardedCall] = {}
        self._unacknowledged: dict[ForwardedCall, None] = {}
        self._is_draining = False
        self._ended = asyncio.Event()

    async def serve(self) -> None:
        """Accept connections until the engine ends this process, or is gone."""
        self._link.start(self._handlers(), self._engine_is_gone)
        await self.listener.start(self)
        DescriptorWatch()
        self._link.send(FromFront.READY, 0)
        await self._ended.wait()
        self._link.flush()

    def _handlers(self) -> Sequence[Handler]:
        """Return the functions that handle the engine's records, in the order of their kinds."""

        def forward(act: Callable[[ForwardedCall, Any], object]) -> Handler:
            return for_call(self._calls, act)

        return (
            self._drain,
            self._close,
            forward(lambda call, _: call.stream.close_connection()),
            forward(lambda call, payload: call.read(decode_count(payload))),
            forward(lambda call, _: call.stream.read_ahead()),
            forward(self._write),
            forward(ForwardedCall.finish),
            forward(lambda call, payload: call.stream.end(payload)),
            forward(lambda call, _: call.ended()),
        )

    # For connections

    def opened(self, connection: Http2Connection) -> None:
        """Note a new connection."""
        self.listener.opened(connection)
        self._count()

    def closed(self, connection: Http2Connection) -> None:
        """Remove a connection."""
        self.listener.closed(connection)
        self._count()
        self._end_if_drained()

    def start_call(self, connection: Http2Connection, stream: Http2Stream) -> None:
        """Forward the call of a new stream."""
        number = next(self._numbers)
        call = ForwardedCall(number, stream, self._link, partial(self._call_ended, number, connection))
        self._calls[number] = call
        call.open(connection.peer)

    def _call_ended(self, number: int, connection: Http2Connection) -> None:
        if self._calls.pop(number, None) is not None:
            connection.call_ended()

    def _count(self) -> None:
        self._link.send(FromFront.COUNTS, 0, encode_count(len(self.listener)))

    # From the engine

    def _drain(self, _number: int, _payload: bytes) -> None:
        self._is_draining = True
        self.listener.drain()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._is_draining and not len(self.listener):
            self._ended.set()

    def _close(self, _number: int, _payload: bytes) -> None:
        self.listener.close()

    def _write(self, call: ForwardedCall, message: Buffer) -> None:
        call.write(message)
        if not self._unacknowledged:  # after the records that have arrived together
            asyncio.get_running_loop().call_soon(self._acknowledge)
        self._unacknowledged[call] = None

    def _acknowledge(self) -> None:
        for call in self._unacknowledged:
            call.acknowledge()
        self._unacknowledged.clear()

    def _engine_is_gone(self) -> None:
        os._exit(0)  # the system ends the connections
