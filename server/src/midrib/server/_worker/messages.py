"""The messages of a batch: fixed fields, because a worker's memory may be damaged and pickles would run code.

A request is the batch's number and its place in shared memory; a reply is the number and the rows, or an error. Both
ends keep the views of a place under its bytes, because the same few places are used repeatedly.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass

from midrib.server._engine.compute import WorkerPlan

NUMBER = struct.Struct("<Q")
ROWS, ERROR = b"r", b"e"
_PLACE = struct.Struct("<IBIQQ")
_MEMORY = struct.Struct("<?IQ")
# The number of a message that maps or unmaps memory: no batch has it.
NO_BATCH = 2**64 - 1
# The number of a message about the compute plan, and of the reply. Both have a plan, or `null`.
PLAN = 2**64 - 2
# The message that ends a measurement: it has no reply.
STOP_MEASURING = NUMBER.pack(PLAN)
_REGION = struct.Struct("<Q12sB")
_MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class Prepared:
    """The properties of a worker that is ready for batches.

    depth: the batches that it should have at a time.  dtypes: the staged dtypes of an item's arrays.
    width: the number of features of a result's row.  batch_s: the estimated seconds of the largest batch.
    plan: the compute plan; None on a GPU.
    """

    depth: int
    dtypes: tuple[str, ...]
    width: int
    batch_s: float
    plan: WorkerPlan | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """An array in a shared buffer.  offset: its first byte.  dtype: numpy's name."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the fields as bytes."""
        fields = _REGION.pack(self.offset, self.dtype.encode(), len(self.shape))
        return fields + struct.pack(f"<{len(self.shape)}Q", *self.shape)

    @classmethod
    def decode(cls, message: bytes, at: int = 0) -> tuple[Region, int]:
        """Read the fields at an offset of a message; return them, and the offset of the byte after them.

        Raises ValueError for anything else.
        """
        try:
            offset, dtype, dimensions = _REGION.unpack_from(message, at)
            sizes = struct.Struct(f"<{min(dimensions, _MAX_DIMENSIONS)}Q")
            shape = sizes.unpack_from(message, at + _REGION.size)
        except struct.error as error:
            raise ValueError(f"{len(message)} bytes are not a region: {error}") from error
        return cls(offset, dtype.rstrip(b"\0").decode(), shape), at + _REGION.size + sizes.size

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class BatchLocation:
    """Where a batch lies.

    buffer: the number of the shared buffer, or of a client's memory.
    inputs: one array for an embedding, two for a gradient.
    result_buffer: the number of the shared buffer for the rows, or of the client's memory.
    result_offset, result_bytes: where the rows go, and how many bytes there are for them.
    """

    buffer: int
    inputs: tuple[Region, ...]
    result_buffer: int
    result_offset: int
    result_bytes: int

    def encode(self) -> bytes:
        """Return the fields as bytes."""
        fields = _PLACE.pack(self.buffer, len(self.inputs), self.result_buffer, self.result_offset, self.result_bytes)
        return b"".join([fields, *(region.encode() for region in self.inputs)])

    @classmethod
    def decode(cls, message: bytes) -> BatchLocation:
        """Read the bytes that `encode` returned."""
        buffer, count, *result = _PLACE.unpack_from(message)
        inputs, at = [], _PLACE.size
        for _ in range(count):
            region, at = Region.decode(message, at)
            inputs.append(region)
        return cls(buffer, tuple(inputs), *result)


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """A client's memory that a worker maps, whose descriptor comes with the message, or unmaps.

    number: names this memory in the places of later batches.
    """

    mapped: bool
    number: int
    size_bytes: int = 0

    def encode(self) -> bytes:
        """Return the message."""
        return NUMBER.pack(NO_BATCH) + _MEMORY.pack(self.mapped, self.number, self.size_bytes)

    @classmethod
    def decode(cls, message: bytes) -> MemoryChange:
        """Read the bytes that `encode` returned, without their number."""
        return cls(*_MEMORY.unpack(message))


def encode_plan(plan: WorkerPlan | None) -> bytes:
    """Return the message, or the reply, with a plan; None asks to measure it, or says that nothing was measured."""
    return NUMBER.pack(PLAN) + json.dumps(None if plan is None else asdict(plan)).encode()


def decode_plan(content: bytes) -> WorkerPlan | None:
    """Read what `encode_plan` returned, without its number. Raises ValueError for anything else."""
    try:
        if (fields := json.loads(content)) is None:
            return None
        return WorkerPlan(dict(fields["fields"]), str(fields["text"]), bool(fields["disturbed"]))
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{len(content)} bytes are not a compute plan: {error}") from error


def split_number(message: bytes) -> tuple[int, bytes]:
    """Return the number of a batch and the rest of the message; raises ValueError if it is too short."""
    if len(message) < NUMBER.size:
        raise ValueError(f"a message of {len(message)} bytes, expected at least {NUMBER.size}")
    return NUMBER.unpack_from(message)[0], message[NUMBER.size :]
