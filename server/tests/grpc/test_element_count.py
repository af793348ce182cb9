"""Counting the elements of a message in its bytes: every repeated field of every request, found in the descriptors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor

from midrib.oip.v2 import inference_pb2
from midrib.server._grpc.element_count import ElementLimits, check_elements
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import LimitExceededError, varint

LIMITS = ElementLimits(max_fields=1000, max_numbers=1000)
MANY = 5000
SERVICES: list[ServiceDescriptor] = [
    service
    for file in (inference_pb2.DESCRIPTOR, backbone_pb2.DESCRIPTOR, embedding_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
]


def sized(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def repeated_fields(
    message: Descriptor, above: tuple[FieldDescriptor, ...] = ()
) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the path from a request to each of its repeated fields."""
    for field in message.fields:
        path = (*above, field)
        if field.is_repeated:
            yield path
        if field.message_type is not None and field not in above:
            yield from repeated_fields(field.message_type, path)


def nested(path: tuple[FieldDescriptor, ...], content: bytes) -> bytes:
    """Return the request that holds the content in the last message of the path."""
    for field in reversed(path[:-1]):
        content = sized(field.number, content)
    return content


PATHS = [
    pytest.param(method.input_type, path, id=f"{method.full_name}-{'.'.join(field.name for field in path)}")
    for service in SERVICES
    for method in service.methods
    for path in repeated_fields(method.input_type)
]
PACKED = [case for case in PATHS if case.values[1][-1].is_packed]


@pytest.mark.parametrize(("request_type", "path"), PATHS)
def test_many_elements_of_a_repeated_field_are_refused(
    request_type: Descriptor, path: tuple[FieldDescriptor, ...]
) -> None:
    """Empty elements cost two bytes each on the wire, and a hundred as objects."""
    data = nested(path, sized(path[-1].number, b"") * MANY)
    with pytest.raises(LimitExceededError, match="more than 1000 elements"):
        check_elements(data, request_type, LIMITS)


@pytest.mark.parametrize(("request_type", "path"), PACKED)
def test_many_numbers_in_a_packed_field_are_refused(
    request_type: Descriptor, path: tuple[FieldDescriptor, ...]
) -> None:
    """All of them stand in one field of the wire format."""
    data = nested(path, sized(path[-1].number, bytes(8 * MANY)))
    with pytest.raises(LimitExceededError, match="more than 1000"):
        check_elements(data, request_type, LIMITS)


def test_a_message_within_the_limits_passes() -> None:
    """The number of bytes of one element does not matter."""
    request = embedding_pb2.EmbedRequest(
        input=embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["x" * 10**6] * 900))
    )
    check_elements(request.SerializeToString(), request.DESCRIPTOR, LIMITS)


def test_tensor_contents_have_a_limit_apart() -> None:
    """A batch of numbers in typed contents is larger than any list of fields."""
    contents = inference_pb2.InferTensorContents(fp32_contents=[1.0] * 900)
    check_elements(contents.SerializeToString(), contents.DESCRIPTOR, ElementLimits(max_fields=10, max_numbers=900))


def test_malformed_bytes_are_left_to_the_parser() -> None:
    """The parser refuses them as INVALID_ARGUMENT."""
    check_elements(b"\x0a\xff", embedding_pb2.EmbedRequest.DESCRIPTOR, LIMITS)
