"""The memories of clients that a worker maps, so that it computes their items where the clients wrote them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

from midrib.server._shared_memory.memory import ClientMemory
from midrib.server._worker.process import WorkerProcess

# The memories that a worker is asked to unmap before it replies. A channel holds fewer than 300 messages, and a batch
# that cannot be sent because it is full would look like the end of the worker.
_MAX_UNMAPPINGS = 32


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
