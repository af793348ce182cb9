"""The recorded bytes of every release against today's stubs: what was sent once is read for ever, and written alike."""

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
    one.full_name: one
    for file in (tensor_pb2, backbone_pb2, embedding_pb2)
    for one in file.DESCRIPTOR.message_types_by_name.values()
}


def rows(name: str) -> list[ParameterSet]:
    """The rows of one file of every release, as cases."""
    return [
        pytest.param(*columns, id=f"{release.name} {case}")
        for release in RELEASES
        for case, *columns in lines(release / name)
    ]


def lines(path: Path) -> list[list[str]]:
    """The columns of every line."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def read(kind: str, recorded: str) -> Message:
    """A message as today's stubs know it."""
    message = GetMessageClass(DESCRIPTORS[kind]).FromString(bytes.fromhex(recorded))
    message.DiscardUnknownFields()
    return message


def written(message: Message) -> str:
    return message.SerializeToString(deterministic=True).hex()


@pytest.mark.parametrize(("kind", "meaning", "recorded"), rows("messages.tsv"))
def test_recorded_bytes_mean_today_what_they_meant(kind: str, meaning: str, recorded: str) -> None:
    """A field that was renumbered, retyped or dropped would read as another message."""
    assert read(kind, recorded) == Parse(meaning, GetMessageClass(DESCRIPTORS[kind])())


@pytest.mark.parametrize(("kind", "meaning", "recorded"), rows("messages.tsv"))
def test_today_writes_what_was_recorded(kind: str, meaning: str, recorded: str) -> None:
    """So that the programs of that release read today's messages."""
    assert written(Parse(meaning, GetMessageClass(DESCRIPTORS[kind])())) == recorded
    assert written(read(kind, recorded)) == recorded


@pytest.mark.parametrize(("dtype", "shape", "numbers", "recorded"), rows("tensors.tsv"))
def test_a_recorded_tensor_has_its_numbers(dtype: str, shape: str, numbers: str, recorded: str) -> None:
    """Every element type, through numpy and back to the same bytes."""
    message = tensor_pb2.Tensor.FromString(bytes.fromhex(recorded))
    array = decode_tensor(message)
    assert (dtype_from_code(message.dtype).name, ",".join(map(str, array.shape))) == (dtype, shape)
    assert list(map(repr, array.astype("float64").reshape(-1).tolist())) == [
        repr(float(number)) for number in numbers.split()
    ]
    assert written(encode_int8_rows(array) if message.row_scales else encode_tensor(array)) == recorded


def test_every_message_and_field_is_recorded() -> None:
    """A new field needs an example in clients/golden/messages.py, and a recorded release."""
    seen: set[str] = set()
    for _, kind, _, recorded in lines(RELEASES[-1] / "messages.tsv"):
        note(read(kind, recorded), seen)
    known = {
        name
        for descriptor in DESCRIPTORS.values()
        for name in [descriptor.full_name, *(field.full_name for field in descriptor.fields)]
    }
    assert known - seen == set()


def note(message: Message, seen: set[str]) -> None:
    """Add the names of a message, of its fields that are set, and of the messages within."""
    seen.add(message.DESCRIPTOR.full_name)
    for field, value in message.ListFields():
        seen.add(field.full_name)
        for one in _values(value):
            if isinstance(one, Message):
                note(one, seen)


def _values(value: Any) -> list[object]:
    """What a field holds: one value, or those of a list or a map."""
    if isinstance(value, Message | str | bytes) or not hasattr(value, "__len__"):
        return [value]
    return list(value.values() if hasattr(value, "values") else value)
