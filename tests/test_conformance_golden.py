"""Today's stubs read and write the recorded bytes of every release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import Parse
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from midrib.v1 import backbone_pb2, embedding_pb2, tensor_pb2
from midrib.wire import decode_tensor, dtype_from_code, encode_int8_rows, encode_tensor

GOLDEN = Path(__file__).parents[1] / "protos" / "golden"
RELEASES = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
DESCRIPTORS: dict[str, Descriptor] = {
    descriptor.full_name: descriptor
    for file in (tensor_pb2, backbone_pb2, embedding_pb2)
    for descriptor in file.DESCRIPTOR.message_types_by_name.values()
}


def rows(name: str) -> list[ParameterSet]:
    """Return the rows of a file of every release, as test cases."""
    return [
        pytest.param(*columns, id=f"{release.name} {case}")
        for release in RELEASES
        for case, *columns in lines(release / name)
    ]


def lines(path: Path) -> list[list[str]]:
    """Return the columns of every line."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def read(kind: str, recorded: str) -> Message:
    """Parse recorded bytes with today's stubs, and drop unknown fields."""
    message = GetMessageClass(DESCRIPTORS[kind]).FromString(bytes.fromhex(recorded))
    message.DiscardUnknownFields()
    return message


def written(message: Message) -> str:
    """Return the bytes of a message in hexadecimal."""
    return message.SerializeToString(deterministic=True).hex()


@pytest.mark.parametrize(("kind", "meaning", "recorded"), rows("messages.tsv"))
def test_recorded_bytes_keep_their_meaning(kind: str, meaning: str, recorded: str) -> None:
    """No field was renumbered, retyped or dropped."""
    assert read(kind, recorded) == Parse(meaning, GetMessageClass(DESCRIPTORS[kind])())


@pytest.mark.parametrize(("kind", "meaning", "recorded"), rows("messages.tsv"))
def test_todays_bytes_equal_the_recorded_ones(kind: str, meaning: str, recorded: str) -> None:
    """Programs of that release read today's messages."""
    assert written(Parse(meaning, GetMessageClass(DESCRIPTORS[kind])())) == recorded
    assert written(read(kind, recorded)) == recorded


@pytest.mark.parametrize(("dtype", "shape", "numbers", "recorded"), rows("tensors.tsv"))
def test_a_recorded_tensor_has_its_numbers(dtype: str, shape: str, numbers: str, recorded: str) -> None:
    """Every element type is decoded to numpy, and encoded to the same bytes."""
    message = tensor_pb2.Tensor.FromString(bytes.fromhex(recorded))
    array = decode_tensor(message)
    assert (dtype_from_code(message.dtype).name, ",".join(map(str, array.shape))) == (dtype, shape)
    assert list(map(repr, array.astype("float64").reshape(-1).tolist())) == [
        repr(float(number)) for number in numbers.split()
    ]
    assert written(encode_int8_rows(array) if message.row_scales else encode_tensor(array)) == recorded


def test_every_message_and_field_is_recorded() -> None:
    """A new field needs an example in clients/golden/messages.py, and a recorded release."""
    recorded_names: set[str] = set()
    for _, kind, _, recorded in lines(RELEASES[-1] / "messages.tsv"):
        add_names(read(kind, recorded), recorded_names)
    names = {
        name
        for descriptor in DESCRIPTORS.values()
        for name in [descriptor.full_name, *(field.full_name for field in descriptor.fields)]
    }
    assert names - recorded_names == set()


def add_names(message: Message, names: set[str]) -> None:
    """Add the names of a message, of its fields that are set, and of the messages inside it."""
    names.add(message.DESCRIPTOR.full_name)
    for field, content in message.ListFields():
        names.add(field.full_name)
        for value in _values(content):
            if isinstance(value, Message):
                add_names(value, names)


def _values(value: Any) -> list[object]:
    """Return the values of a field: one, or those of a list or a map."""
    if isinstance(value, Message | str | bytes) or not hasattr(value, "__len__"):
        return [value]
    return list(value.values() if hasattr(value, "values") else value)
