"""A client of EmbedStream that uses shared memory as it likes."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import queue
import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from midrib.server.testing import RunningServer
from midrib.v1.embedding_pb2 import (
    EmbedStreamRequest,
    EmbedStreamResponse,
    Input,
    Item,
    Open,
    Options,
    Result,
    SharedItem,
    SharedMemory,
    SharedTensor,
)
from midrib.v1.tensor_pb2 import DATA_TYPE_FLOAT32
from midrib.wire import Array, decode_tensor, encode_tensor

KEY_S = 10.0


class SharedStream:
    """A stream that asks for shared memory, driven message by message."""

    def __init__(self, stub: Any, backbone: str, options: Options | None = None) -> None:
        self._requests: queue.SimpleQueue[EmbedStreamRequest | None] = queue.SimpleQueue()
        self.call = stub.EmbedStream(iter(self._requests.get, None), timeout=30)
        self.send(EmbedStreamRequest(open=Open(backbone=backbone, options=options, shared_memory=True)))
        self.opened = next(self.call).opened
        self.descriptor = -1
        self.memory: mmap.mmap

    @property
    def offer(self) -> SharedMemory:
        """The server's offer."""
        offer: SharedMemory = self.opened.shared_memory
        return offer

    def fetch(self) -> None:
        """Fetch and map the segment."""
        self.descriptor = fetched(self.offer)
        self.memory = mmap.mmap(self.descriptor, self.offer.size_bytes)

    def write(self, offset: int, rows: Array) -> None:
        """Write rows into the segment."""
        self.memory[offset : offset + rows.nbytes] = rows.tobytes()

    def send(self, *requests: EmbedStreamRequest) -> None:
        """Send messages."""
        for request in requests:
            self._requests.put(request)

    def result(self) -> Result:
        """Return the next result."""
        response: EmbedStreamResponse = next(self.call)
        return response.result

    def finish(self) -> None:
        """End the stream, and close the memory."""
        self._requests.put(None)
        for _ in self.call:
            pass
        if self.descriptor >= 0:
            self.memory.close()
            os.close(self.descriptor)


def connected(offer: SharedMemory) -> socket.socket:
    """Return a connection to the server's socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(KEY_S)
    try:
        connection.connect(f"\0{offer.socket}")
    except BaseException:
        connection.close()
        raise
    return connection


def descriptors(offer: SharedMemory, key: bytes) -> list[int]:
    """Return the descriptors that the server hands over for a key."""
    with connected(offer) as connection, contextlib.suppress(ConnectionError):  # it may be closed at once
        connection.send(key)
        return list(socket.recv_fds(connection, 1, 4)[1])
    return []


def fetched(offer: SharedMemory) -> int:
    """Return the descriptor of the offered segment."""
    (descriptor,) = descriptors(offer, offer.key)
    return descriptor


def shared_item(number: int, *, offset: int = 0, shape: tuple[int, ...] = (1, 2), **fields: Any) -> EmbedStreamRequest:
    """Return an item in shared memory; fields: of the SharedItem."""
    tensor = SharedTensor(dtype=fields.pop("dtype", DATA_TYPE_FLOAT32), shape=shape, offset=offset)
    return EmbedStreamRequest(item=Item(id=number, shared=SharedItem(input=tensor, **fields)))


def sent_item(number: int, rows: Array) -> EmbedStreamRequest:
    """Return an item whose rows are in the message."""
    return EmbedStreamRequest(item=Item(id=number, input=Input(tensor=encode_tensor(rows))))


def features(result: Result) -> list[list[float]]:
    """Return the rows of a result in a message."""
    rows: list[list[float]] = decode_tensor(result.embedding).tolist()
    return rows


def rows_of(*values: float) -> Array:
    """Return one row."""
    return np.array([values], np.float32)


def shared_bytes(running: RunningServer) -> float:
    """Return the bytes that a server shares now, by its metrics."""
    return running.server.catalogue.metrics.registry.get_sample_value("midrib_shared_memory_bytes") or 0.0


def until(running: RunningServer, reached: Callable[[], bool]) -> None:
    """Wait for a state that the server reaches soon; fails after some seconds."""
    running.run(_until(reached), timeout=20)


async def _until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.01)
