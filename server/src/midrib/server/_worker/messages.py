"""The messages of a batch: JSON, since a worker's memory may be damaged and pickles would run code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prepared:
    """The properties of a worker that is ready for batches.

    depth: batches that it has use for at a time.  dtypes: of the arrays of an item, staged.
    width: of a row of the result.  batch_s: seconds that the largest batch may take, as estimated.
    plan: the compute plan that was chosen; None on a GPU.
    """

    depth: int
    dtypes: tuple[str, ...]
    width: int
    batch_s: float
    plan: Any = None


@dataclass(frozen=True, slots=True)
class Region:
    """An array in a shared buffer. offset: in bytes. dtype: numpy's name."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A staged batch.

    buffer: the index of the shared buffer.  inputs: one array for an embedding, two for a gradient.
    result_offset, result_bytes: where the rows go, and how many bytes there are for them.
    """

    number: int
    buffer: int
    inputs: tuple[Region, ...]
    result_offset: int
    result_bytes: int

    def encode(self) -> bytes:
        """Return the message."""
        inputs = [_fields(region) for region in self.inputs]
        return json.dumps([self.number, self.buffer, inputs, self.result_offset, self.result_bytes]).encode()

    @classmethod
    def decode(cls, message: bytes) -> BatchRequest:
        """Read a message; raises ValueError for anything else."""
        number, buffer, inputs, result_offset, result_bytes = json.loads(message)
        return cls(number, buffer, tuple(_region(fields) for fields in inputs), result_offset, result_bytes)


@dataclass(frozen=True, slots=True)
class BatchReply:
    """The outcome of a batch: the place of its rows, or the error of the module as text for the log."""

    number: int
    rows: Region | None = None
    error: str = ""

    def encode(self) -> bytes:
        """Return the message."""
        return json.dumps([self.number, None if self.rows is None else _fields(self.rows), self.error]).encode()

    @classmethod
    def decode(cls, message: bytes) -> BatchReply:
        """Read a message; raises ValueError for anything else."""
        number, rows, error = json.loads(message)
        return cls(int(number), None if rows is None else _region(rows), str(error))


def _fields(region: Region) -> Sequence[Any]:
    return region.offset, region.dtype, region.shape


def _region(fields: Sequence[Any]) -> Region:
    offset, dtype, shape = fields
    return Region(int(offset), str(dtype), tuple(map(int, shape)))
