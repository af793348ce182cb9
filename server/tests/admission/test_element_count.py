"""The elements of a message are counted in its bytes, in any field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from midrib.oip.v2 import inference_pb2
from midrib.server._admission.element_count import ElementLimits, check_elements
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import LimitExceededError

EMBED: Any = embedding_pb2.EmbedRequest.DESCRIPTOR
FEW = ElementLimits(max_fields=100, max_numbers=100)
FILES = (embedding_pb2, backbone_pb2, inference_pb2)


def requests() -> Iterator[Descriptor]:
    """Yield the request message of every method."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from (cast("Descriptor", method.input_type) for method in service.methods)


def repeated(message: Descriptor, path: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the path to every repeated field below a message."""
    for field in message.fields:
        if field in path:
            continue
        if field.is_repeated:
            yield (*path, field)
        if field.message_type is not None:
            yield from repeated(field.message_type, (*path, field))


def tag(field: FieldDescriptor, wire_type: int) -> bytes:
    return varint(field.number << 3 | wire_type)


def varint(value: int) -> bytes:
    low = bytes([value & 0x7F])
    return low if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def nested(path: tuple[FieldDescriptor, ...], content: bytes) -> bytes:
    """Return content as the bytes of the messages around it."""
    for field in reversed(path):
        content = tag(field, 2) + varint(len(content)) + content
    return content


PATHS = {
    f"{message.full_name}: {'.'.join(field.name for field in path)}": (message, path)
    for message in requests()
    for path in repeated(message)
}


@pytest.mark.parametrize(("message", "path"), PATHS.values(), ids=PATHS.keys())
def test_every_repeated_field_is_counted(message: Descriptor, path: tuple[FieldDescriptor, ...]) -> None:
    """A thousand empty elements of it, and a packed field of a thousand numbers; a new field is tested too."""
    data = nested(path[:-1], (tag(path[-1], 2) + b"\0") * 1000)
    with pytest.raises(LimitExceededError, match="more than 100 elements"):
        check_elements(data, message, FEW)


@pytest.mark.parametrize(
    ("message", "path"),
    [value for value in PATHS.values() if value[1][-1].is_packed],
    ids=[key for key, value in PATHS.items() if value[1][-1].is_packed],
)
def test_every_packed_field_is_counted(message: Descriptor, path: tuple[FieldDescriptor, ...]) -> None:
    """Its numbers are elements although they are one field."""
    with pytest.raises(LimitExceededError, match="more than 100 (elements|numbers)"):
        check_elements(nested(path, bytes(1000)), message, FEW)


@given(data=st.binary(max_size=99))
def test_bytes_that_are_not_a_message_are_left_to_the_parser(data: bytes) -> None:
    """Counting raises nothing for them."""
    check_elements(data, EMBED, FEW)


@given(texts=st.lists(st.text(max_size=5), max_size=20))
def test_a_message_within_the_limits_passes(texts: list[str]) -> None:
    """Every field of it counts once."""
    message = embedding_pb2.EmbedRequest(
        backbone="a", input=embedding_pb2.Input(texts=embedding_pb2.Texts(texts=texts))
    )
    check_elements(message.SerializeToString(), EMBED, FEW)
