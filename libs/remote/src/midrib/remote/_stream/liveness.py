"""Notices that the server of a stream has gone silent, or that the stream is idle."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Final

from midrib.remote._connect.tcp_progress import SLOWEST_BYTES_PER_S, exchanged_bytes
from midrib.remote._connect.transport import EmbeddingStream
from midrib.remote._stream.window import MessagesInFlight

# A stream that carries nothing for this long is closed; the next call opens another.
_IDLE_S: Final = 60.0
# A proxy that buffers an upload acknowledges it at once. The line behind it is assumed to be at least this fast.
_SLOW_BYTES_PER_S: Final = 100e3


class Ending(Enum):
    """Why a watchdog ended its stream."""

    SILENT = "silent"
    IDLE = "idle"


class SilenceWatchdog:
    """Cancels a stream whose server owes an answer and is silent, because the server may be gone.

    address: "ip:port" of the server.  stall_s: the seconds of silence to allow.  reply_row_bytes: the size of one row
    of a result.  ending: why it cancelled the stream.
    """

    def __init__(
        self,
        stream: EmbeddingStream,
        address: str,
        in_flight: MessagesInFlight,
        *,
        stall_s: float,
        reply_row_bytes: int,
    ) -> None:
        self.ending: Ending | None = None
        self.heard_at = self._progress_at = time.monotonic()
        self._stream = stream
        self._address = address
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._reply_row_bytes = reply_row_bytes
        self._opening = True
        self._exchanged = 0
        self._timer = self._schedule()

    def opened(self) -> None:
        """Note that the server answered the opening: from now on it owes answers only to items in flight."""
        self._opening = False
        self.heard_at = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _schedule(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._stall_s / 4, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if not (self._opening or self._in_flight):
            if now - self.heard_at > _IDLE_S:
                self._end(Ending.IDLE)
        else:
            owed_since = self.heard_at if self._opening else max(self._in_flight.oldest_sent_at(), self.heard_at)
            if now - owed_since > self._stall_s / 2 and self._progressed():
                self._progress_at = min(now, owed_since + self._longest_transfer_s())
            if now - max(owed_since, self._progress_at) > self._stall_s + self._buffered_upload_s():
                self._end(Ending.SILENT)
        self._timer = self._schedule()

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        self._stream.cancel()

    def _buffered_upload_s(self) -> float:
        """Return the seconds that a proxy may take to forward the bytes in flight, at most one more stall."""
        return min(self._stall_s, self._in_flight.size() / _SLOW_BYTES_PER_S)

    def _longest_transfer_s(self) -> float:
        """Return the seconds that the bytes in flight and their results take on the slowest line."""
        replies = self._in_flight.rows() * self._reply_row_bytes
        return self._stall_s + (self._in_flight.size() + replies) / SLOWEST_BYTES_PER_S

    def _progressed(self) -> bool:
        """Return whether bytes passed in either direction since the last look; the first look only counts them."""
        before, self._exchanged = self._exchanged, exchanged_bytes(self._address)
        return before != self._exchanged and before > 0
