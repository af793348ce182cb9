"""The messages of one stream whose rows lie in memory that the server shares."""

from __future__ import annotations

from typing import Final

from midrib.remote._items.rows import TensorRows
from midrib.remote._shared_memory.segment import MappedSegment
from midrib.remote._stream.call import Message
from midrib.v1.embedding_pb2 import EmbedStreamRequest, SharedTensor
from midrib.wire import Array, aligned, code_from_dtype

# Smaller inputs and results travel in messages: a place in shared memory costs as much as sending them.
_LEAST_INPUT_BYTES: Final = 32 << 10
_LEAST_RESULT_BYTES: Final = 16 << 10
# The number of large messages that fit a segment: while the server computes one, the next is copied. With smaller parts
# the server would start earlier, but each part costs client and server half a millisecond of processor time. 16 images
# of 3x224x224 in one part took 0.7 of the processor time of two parts.
_MESSAGES: Final = 2


class SharedMessages:
    """Writes the rows of messages into a segment, and frees their places once their results have come.

    reply_row_bytes: the size of one row of a result, at most.
    """

    def __init__(self, segment: MappedSegment, reply_row_bytes: int) -> None:
        self._segment = segment
        self._reply_row_bytes = reply_row_bytes
        self._offsets: dict[int, int] = {}

    @property
    def part_bytes(self) -> int:
        """The size of the parts that large calls are cut into."""
        return self._segment.size_bytes // _MESSAGES - (_LEAST_RESULT_BYTES << 4)

    @property
    def part_rows(self) -> int:
        """The most rows of a part: its results then fit beside its inputs."""
        return max(1, self._segment.size_bytes // _MESSAGES // max(1, self._reply_row_bytes))

    def has_room(self, message: Message) -> bool:
        """Return whether a message can be encoded now; True for a message that does not use the segment."""
        size = self._place_bytes(message)
        return not size or self._segment.has_room(size)

    def encode(self, message: Message, item_id: int) -> bytes | None:
        """Write the rows of a message into the segment and return the item; None for a message that does not use it."""
        size = self._place_bytes(message)
        offset = self._segment.allocate(size) if size else None
        if offset is None:
            return None
        self._offsets[item_id] = offset
        rows = [part.rows for part in message.parts if isinstance(part.rows, TensorRows)]  # all are, or none
        self._segment.write(offset, [tensor.data() for tensor in rows])
        array = rows[0].array
        request = EmbedStreamRequest()
        request.item.id = item_id
        item = request.item.shared
        item.input.dtype, item.input.offset = code_from_dtype(array.dtype), offset
        item.input.shape[:] = (message.rows, *array.shape[1:])
        item.result_bytes = self._result_bytes(message)
        if item.result_bytes:
            item.result_offset = offset + aligned(message.input_bytes)
        return request.SerializeToString()

    def tensor(self, shared: SharedTensor) -> Array:
        """Return a view of a result [rows, num_features]. Raises ValueError if it is not inside the segment."""
        return self._segment.tensor(shared)

    def free(self, item_id: int) -> None:
        """Free the place of a message whose result has been delivered."""
        offset = self._offsets.pop(item_id, None)
        if offset is not None:
            self._segment.free(offset)

    def close(self) -> None:
        """Unmap the memory."""
        self._segment.close()

    def _place_bytes(self, message: Message) -> int:
        """Return the size of a message's place in the segment, for its rows and its result; 0 if it does not use it.

        The rows of a large tensor use the segment if they fit.
        """
        rows = message.parts[0].rows
        if message.input_bytes < _LEAST_INPUT_BYTES or not isinstance(rows, TensorRows) or rows.array.dtype.kind == "b":
            return 0
        size = aligned(message.input_bytes) + self._result_bytes(message)
        return size if size <= self._segment.size_bytes else 0

    def _result_bytes(self, message: Message) -> int:
        size = message.rows * self._reply_row_bytes
        return size if size >= _LEAST_RESULT_BYTES else 0
