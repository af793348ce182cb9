"""The shared memory of the streams of a server: their limits, and the segment of each stream."""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

from midrib.server._admission.tokens import Tenant
from midrib.server._observability.accounting import Accounting
from midrib.server._settings import Settings
from midrib.server._shared_memory.handover import HandoverSocket
from midrib.server._shared_memory.segment import SealedSegment
from midrib.v1.embedding_pb2 import SharedItem, SharedMemory, SharedTensor
from midrib.wire import Array, InvalidInputError, can_share_memory

logger = logging.getLogger(__name__)

# The size of a segment. It holds the two items of up to 12 MiB that a client has in flight.
_SEGMENT_BYTES = 24 << 20
_PAGE = 4096


class MemoryLimits(NamedTuple):
    """The bytes of one segment, and of all segments of a server."""

    segment: int
    total: int


def memory_limits(settings: Settings) -> MemoryLimits:
    """Return the limits of a server; 0 bytes if it shares no memory."""
    total = settings.max_shared_memory_bytes if settings.shared_memory and can_share_memory() else 0
    segment = min(_SEGMENT_BYTES, settings.max_stream_bytes, total)
    return MemoryLimits(segment // _PAGE * _PAGE, total)


class StreamMemories:
    """Makes the segments of a server's streams, within its limits. On the event loop only."""

    def __init__(self, settings: Settings, accounting: Accounting) -> None:
        self.accounting = accounting
        self._limits = memory_limits(settings)
        self._socket: HandoverSocket | None = None
        self._has_failed = False
        self._held: dict[str | None, int] = {}

    def of_stream(self, tenant: Tenant | None, *, requested: bool, copies: bool) -> StreamMemory:
        """Return the memory of one stream.

        tenant: the token that the stream's bytes are counted for; None on a server without tokens.
        requested: whether the client can use it.  copies: as for `StreamMemory`.
        """
        return StreamMemory(self, tenant, requested=requested, copies=copies)

    def close(self) -> None:
        """Hand over no more segments; open streams keep theirs."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._limits = None, MemoryLimits(0, 0)

    def socket(self) -> HandoverSocket | None:
        """Return the socket, opened at the first call; None if the server shares no memory, or cannot open it now."""
        if self._limits.segment and self._socket is None:
            try:
                self._socket = HandoverSocket()
            except OSError as error:  # it may pass: no descriptor is left
                if not self._has_failed:
                    logger.warning("a stream shares no memory, because a socket could not be opened: %s", error)
                self._has_failed = True
        return self._socket

    def withdraw(self, key: bytes) -> None:
        """Forget the key of a stream that has ended, if it was not used."""
        if self._socket is not None:
            self._socket.withdraw(key)

    @property
    def segment_bytes(self) -> int:
        """The size of each segment."""
        return self._limits.segment

    def new_segment(self, tenant: Tenant | None) -> SealedSegment | None:
        """Return a segment; None if the limit of the server or of the tenant is reached.

        Its bytes count until it is unmapped. Raises OSError if the system has no memory or no descriptor left.
        """
        size = self._limits.segment
        name, limit = (None, self._limits.total) if tenant is None else (tenant.name, tenant.in_flight_bytes.limit)
        if sum(self._held.values()) + size > self._limits.total or self._held.get(name, 0) + size > limit:
            return None
        segment = SealedSegment(size)
        self._count(name, size)
        segment.memory.when_unmapped(partial(self._count, name, -size))
        return segment

    def _count(self, name: str | None, size: int) -> None:
        self._held[name] = self._held.get(name, 0) + size
        if not self._held[name]:
            del self._held[name]
        self.accounting.shared_memory(sum(self._held.values()))


class StreamMemory:
    """The segment of one stream, which exists once the client has fetched it.

    requested: whether the client can use it.
    copies: whether inputs are copied before they are checked, because the client could change them afterwards: on a
    GPU, a token id outside the vocabulary makes the device unusable for all clients.
    """

    def __init__(self, memories: StreamMemories, tenant: Tenant | None, *, requested: bool, copies: bool) -> None:
        self._memories = memories
        self._asked = requested
        self._tenant = tenant
        self._copies = copies
        self._segment: SealedSegment | None = None
        self._key = b""
        self._places: dict[int, SharedItem] = {}

    def offered(self) -> SharedMemory | None:
        """Return the offer with which a client fetches the segment; None if memory is not shared with this client."""
        socket = self._memories.socket() if self._asked else None
        if socket is None:
            return None
        self._key = socket.offer(self._take)
        return SharedMemory(socket=socket.name, key=self._key, size_bytes=self._memories.segment_bytes)

    def input(self, item_id: int, item: SharedItem) -> Array:
        """Return the input [rows, ...] of an item, and remember where its embedding goes.

        Raises InvalidInputError for anything outside the segment.
        """
        if self._segment is None:
            raise InvalidInputError(
                f"item {item_id} lies in shared memory, which this stream does not have: send the input in the message",
                field="shared",
            )
        self._segment.check(item.result_offset, item.result_bytes, field="shared.result_offset")
        array = self._segment.array(item.input, field="shared.input")
        if item.result_bytes:
            self._places[item_id] = item
            self._segment.expect_result(item)
        return array.copy() if self._copies else array

    def count_item(self, *, shared: bool) -> None:
        """Count an item by the route of its input."""
        self._memories.accounting.stream_item(shared=shared)

    def write(self, item_id: int, rows: Array) -> SharedTensor | None:
        """Write the embedding [rows, num_features] of an item to the place that the item names.

        Return where it lies; None if it is to be sent in a message.
        """
        item = self._popped(item_id)
        return None if item is None or self._segment is None else self._segment.write(rows, item)

    def forget(self, item_id: int) -> None:
        """Forget the place of an item that has failed, or whose result is sent in a message."""
        self._popped(item_id)

    def close(self) -> None:
        """Release the segment, once no batch reads it any more."""
        self._segment = None
        self._places.clear()
        self._memories.withdraw(self._key)

    def _popped(self, item_id: int) -> SharedItem | None:
        """Return the item of an id, whose place is forgotten; None if it names no place."""
        item = self._places.pop(item_id, None)
        if item is not None and self._segment is not None:
            self._segment.forget_result(item)
        return item

    def _take(self) -> int | None:
        """Make the segment, and return its descriptor for the client. Raises OSError, and has none, if none is left."""
        segment = self._memories.new_segment(self._tenant)
        if segment is None:
            return None
        descriptor = segment.hand_over()
        self._segment = segment
        return descriptor
