"""Counts the elements of a protobuf message in its bytes, before any object is built.

A message of 60 MiB can hold 30 million empty fields: parsing it takes a minute and gigabytes. Counting stops at the
limit, so it costs at most a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from midrib.server._large import Buffer
from midrib.wire import LimitExceededError, read_varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_DOUBLE: 8,
}
_UNPACKABLE = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
# Packed fields of these messages hold the numbers of a tensor; every other packed field is short, a shape for example.
_TENSOR_CONTENTS = frozenset({"midrib.oip.v2.InferTensorContents"})


@dataclass(frozen=True)
class ElementLimits:
    """The number of elements that one message may hold.

    max_fields: fields of the message and of all nested messages: repeated elements, map entries, tensor dimensions.
    max_numbers: numbers in packed tensor contents.
    """

    max_fields: int
    max_numbers: int


class _Packing(Enum):
    VARINT = "varint"
    FIXED = "fixed"


class _Field(NamedTuple):
    """The layout of a length-delimited field. item_bytes: the size of a packed number, if it is fixed."""

    message: Descriptor | None
    packing: _Packing | None
    item_bytes: int
    is_tensor: bool


def check_elements(data: Buffer, descriptor: Descriptor, limits: ElementLimits) -> None:
    """Raise LimitExceededError if a serialised message holds more elements than the limits allow.

    Bytes that are not a valid message pass up to the first error: the parser refuses them.
    """
    try:
        _Count(limits).add(data, descriptor)
    except LimitExceededError:  # a ValueError too
        raise
    except (IndexError, ValueError):
        return


class _Count:
    """The elements counted so far in one message."""

    def __init__(self, limits: ElementLimits) -> None:
        self._limits = limits
        self._fields = 0
        self._numbers = 0

    def add(self, data: Buffer, descriptor: Descriptor) -> None:
        """Count the fields of a message. Raises IndexError or ValueError if the bytes are malformed."""
        pending = [(0, len(data), descriptor)]
        while pending:
            at, end, message = pending.pop()
            layout = _layout(message)
            while at < end:
                self._add_fields(1)
                tag, at = read_varint(data, at)
                start, at = _skip(data, at, tag & 7)
                if at > end:
                    raise ValueError(f"field {tag >> 3} ends at byte {at}, its message at {end}")
                field = layout.get(tag >> 3) if tag & 7 == _BYTES else None
                if field is None:
                    continue
                if field.message is not None:
                    pending.append((start, at, field.message))
                elif field.packing is not None:
                    self._add_packed(data, start, at, field)

    def _add_packed(self, data: Buffer, start: int, end: int, field: _Field) -> None:
        """Count packed numbers. Raises LimitExceededError for too many."""
        if field.packing is _Packing.FIXED:
            count = (end - start) // field.item_bytes
        else:  # the last byte of each number is below 0x80
            count = int(np.count_nonzero(np.frombuffer(data, np.uint8, end - start, start) < 0x80))
        if not field.is_tensor:
            self._add_fields(count)
            return
        self._numbers += count
        if self._numbers > self._limits.max_numbers:
            raise _too_many(f"more than {self._limits.max_numbers} numbers in its typed contents")

    def _add_fields(self, count: int) -> None:
        """Count fields. Raises LimitExceededError for too many."""
        self._fields += count
        if self._fields > self._limits.max_fields:
            raise _too_many(f"more than {self._limits.max_fields} elements (repeated fields, map entries, dimensions)")


def _too_many(problem: str) -> LimitExceededError:
    return LimitExceededError(f"the message holds {problem}: split it")


def _skip(data: Buffer, at: int, wire_type: int) -> tuple[int, int]:
    """Return where the content of a field begins and where it ends."""
    if wire_type == _VARINT:
        return at, read_varint(data, at)[1]
    if wire_type == _BYTES:
        size, start = read_varint(data, at)
        return start, start + size
    if wire_type in (_FIXED32, _FIXED64):
        return at, at + (4 if wire_type == _FIXED32 else 8)
    return at, at  # the begin or end of a group: its fields are counted like those around it


@cache
def _layout(descriptor: Descriptor) -> Mapping[int, _Field]:
    """Return the fields of a message that can hold further elements, by number."""
    return {field.number: _field(field, descriptor) for field in descriptor.fields if _holds_elements(field)}


def _holds_elements(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_MESSAGE or (field.is_repeated and field.type not in _UNPACKABLE)


def _field(field: FieldDescriptor, message: Descriptor) -> _Field:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _Field(field.message_type, None, 0, is_tensor=False)
    item_bytes = _FIXED_BYTES.get(field.type, 0)
    packing = _Packing.FIXED if item_bytes else _Packing.VARINT
    return _Field(None, packing, item_bytes, is_tensor=message.full_name in _TENSOR_CONTENTS)
