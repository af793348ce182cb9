"""A stub whose streams send their items through shared memory, for tests that send them in messages."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from midrib.v1.embedding_pb2 import (
    EmbedStreamRequest,
    EmbedStreamResponse,
    Item,
    SharedItem,
    SharedMemory,
    SharedTensor,
)
from midrib.wire import Array, code_from_dtype, decode_tensor, dtype_from_code, encode_tensor
from server.tests.shared_memory.hostile_client import KEY_S, descriptors

# The bytes of the place of each item: its input, then its embedding.
_PLACE = 1 << 10


class SharedRoute:
    """A stub of EmbeddingService. Only its streams are changed."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    def EmbedStream(self, requests: Iterable[EmbedStreamRequest], timeout: float) -> Any:  # noqa: N802 - as generated
        """Open a stream that shares memory."""
        return _Stream(self._stub, requests, timeout)


class _Stream:
    """One call: requests are rewritten as they are sent, results as they are read."""

    def __init__(self, stub: Any, requests: Iterable[EmbedStreamRequest], timeout: float) -> None:
        self._mapped = threading.Event()
        self._memory: mmap.mmap
        self._used = 0
        self._call = stub.EmbedStream(self._rewritten(requests), timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[EmbedStreamResponse]:
        return self

    def __next__(self) -> EmbedStreamResponse:
        response: EmbedStreamResponse = next(self._call)
        if response.HasField("opened"):
            self._map(response.opened.shared_memory)
        elif response.result.HasField("shared"):
            response.result.embedding.CopyFrom(encode_tensor(self._array(response.result.shared)))
        return response

    def _map(self, offer: SharedMemory) -> None:
        for descriptor in descriptors(offer, offer.key):  # none if the stream has ended
            self._memory = mmap.mmap(descriptor, offer.size_bytes)
            os.close(descriptor)
            self._mapped.set()

    def _rewritten(self, requests: Iterable[EmbedStreamRequest]) -> Iterator[EmbedStreamRequest]:
        opened = False
        for request in requests:
            if request.HasField("item") and opened:
                yield self._shared(request)
                continue
            changed = EmbedStreamRequest.FromString(request.SerializeToString())
            if request.HasField("open"):
                changed.open.shared_memory = opened = True
            yield changed

    def _shared(self, request: EmbedStreamRequest) -> EmbedStreamRequest:
        """Return the same item, whose rows are written into the memory once it is mapped."""
        if not self._mapped.wait(KEY_S):
            raise RuntimeError("the stream was not opened: read its first response")
        rows, offset = decode_tensor(request.item.input.tensor), self._used
        self._used += 2 * _PLACE
        tensor = SharedTensor(dtype=code_from_dtype(rows.dtype), shape=rows.shape, offset=offset)
        self._array(tensor)[...] = rows
        place = SharedItem(input=tensor, result_offset=offset + _PLACE, result_bytes=_PLACE)
        return EmbedStreamRequest(item=Item(id=request.item.id, shared=place))

    def _array(self, tensor: SharedTensor) -> Array:
        return np.ndarray(tuple(tensor.shape), dtype_from_code(tensor.dtype), self._memory, tensor.offset)
