"""Large requests are read without copies of their data, and equal those that protobuf's library reads."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from midrib.oip.v2.inference_pb2 import InferTensorContents, ModelInferRequest
from midrib.server._grpc.codecs.fast import CODECS
from midrib.server._intake.large_messages import LARGE_MESSAGE_BYTES
from midrib.server._intake.media_input import Media, WireTensor
from midrib.server._oip.large_request import InferData, read_large_infer
from midrib.v1.embedding_pb2 import (
    AudioClips,
    BackwardRequest,
    EmbedRequest,
    EmbedStreamRequest,
    Images,
    Input,
    Item,
    Open,
    Options,
    SharedItem,
    Texts,
)
from midrib.v1.tensor_pb2 import Tensor
from midrib.wire import InvalidInputError, LimitExceededError, decode_tensor, encode_int8_rows, varint

EMBED = CODECS["/midrib.v1.EmbeddingService/Embed"]
STREAM = CODECS["/midrib.v1.EmbeddingService/EmbedStream"]
BACKWARD = CODECS["/midrib.v1.EmbeddingService/Backward"]
LONG = LARGE_MESSAGE_BYTES + 1

tensors = st.builds(
    Tensor,
    dtype=st.integers(0, 9),
    shape=st.lists(st.integers(0, 300), max_size=3),
    data=st.binary(min_size=2, max_size=40),
    row_scales=st.binary(max_size=8),
)
inputs = st.one_of(
    st.builds(Input),
    st.builds(Input, tensor=tensors),
    st.builds(Input, images=st.builds(Images, encoded=st.lists(st.binary(max_size=9), max_size=4))),
    st.builds(Input, texts=st.builds(Texts, texts=st.lists(st.text(max_size=9), max_size=4))),
    st.builds(Input, audio=st.builds(AudioClips, clips=st.lists(tensors, max_size=3), rate=st.integers(0, 9))),
)


def large(codec: Any, message: Any) -> Any:
    return codec.large(memoryview(message.SerializeToString()))


def joined(tensor: WireTensor) -> Tensor:
    message = Tensor()
    message.CopyFrom(tensor.message)
    message.data = bytes(tensor.data)
    return message


def as_input(source: Any) -> Input:
    """Return the input message that a large reader has read."""
    if isinstance(source, WireTensor):
        return Input(tensor=joined(source))
    if not isinstance(source, Media):
        return Input()
    if source.kind == "images":
        return Input(images=Images(encoded=[bytes(item) for item in source.items]))
    if source.kind == "texts":
        return Input(texts=Texts(texts=[bytes(item).decode() for item in source.items]))
    return Input(audio=AudioClips(clips=[joined(clip) for clip in source.items], rate=source.rate))


@given(st.builds(EmbedRequest, backbone=st.text(), input=inputs, options=st.builds(Options, normalize=st.booleans())))
def test_a_large_call_equals_that_of_the_library(request: EmbedRequest) -> None:
    call = large(EMBED, request)
    call.request.input.CopyFrom(as_input(call.source))
    assert call.request == request


@given(st.builds(Item, id=st.integers(0, 2**40), input=inputs))
def test_a_large_item_equals_that_of_the_library(item: Item) -> None:
    read = large(STREAM, EmbedStreamRequest(item=item))
    assert (read.id, as_input(read.source)) == (item.id, item.input)


@given(st.builds(BackwardRequest, backbone=st.text(), input=tensors, grad_embedding=tensors))
def test_a_large_gradient_equals_that_of_the_library(request: BackwardRequest) -> None:
    call = large(BACKWARD, request)
    rows, gradient = call.tensors.rows, call.tensors.gradient
    assert (joined(rows), joined(gradient)) == (request.input, request.grad_embedding)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(EmbedStreamRequest(open=Open(backbone="a")), id="open"),
        pytest.param(EmbedStreamRequest(item=Item(id=3)), id="no input"),
        pytest.param(EmbedStreamRequest(item=Item(id=3, shared=SharedItem(result_offset=8))), id="shared"),
        pytest.param(EmbedStreamRequest(item=Item(input=Input(), shared=SharedItem())), id="input and shared"),
    ],
)
def test_other_messages_of_a_stream_are_read_by_the_library(message: EmbedStreamRequest) -> None:
    """They are small, so that copying them takes no time."""
    assert large(STREAM, message) == message


@given(
    st.sampled_from(["bool", "int", "int64", "uint", "uint64", "fp32", "fp64"]),
    st.lists(st.integers(0, 1), max_size=9),
    st.lists(st.binary(max_size=9), max_size=3),
    st.lists(st.binary(max_size=9), max_size=3),
)
def test_a_large_infer_request_equals_that_of_the_library(
    kind: str, numbers: list[int], elements: list[bytes], raw: list[bytes]
) -> None:
    """Typed contents of every kind, BYTES and raw contents."""
    contents: Any = {f"{kind}_contents": numbers} if numbers else {"bytes_contents": elements}
    elements = [] if numbers else elements
    tensor = ModelInferRequest.InferInputTensor(name="a", shape=[2], contents=InferTensorContents(**contents))
    request = ModelInferRequest(model_name="b", inputs=[tensor], raw_input_contents=raw)
    message, apart = read_large_infer(memoryview(request.SerializeToString()))
    assert isinstance(apart, InferData)
    typed = apart.floats.get(f"{kind}_contents", getattr(message.inputs[0].contents, f"{kind}_contents"))
    assert (list(typed), apart.elements, apart.raw) == (numbers, elements, raw)
    assert (message.model_name, message.inputs[0].name, list(message.inputs[0].shape)) == ("b", "a", [2])


def test_elements_beside_those_of_the_datatype_are_refused() -> None:
    """They would stay in memory with the elements that are used, without being counted."""
    contents = InferTensorContents(fp32_contents=[0.0] * LONG, bytes_contents=[b"a"])
    request = ModelInferRequest(inputs=[ModelInferRequest.InferInputTensor(contents=contents)])
    with pytest.raises(InvalidInputError, match=r"the fields \[6, 8\], expected only that of its datatype"):
        read_large_infer(memoryview(request.SerializeToString()))


def test_numbers_in_both_packings_are_all_read() -> None:
    """Protobuf allows each number to be packed or not."""
    fields = b"".join(InferTensorContents(fp32_contents=[number]).SerializeToString() for number in (1.0, 3.0))
    unpacked = b"\x35" + np.float32(2.0).tobytes()
    tensor = b"\x2a" + bytes([len(fields) + 5]) + fields[:6] + unpacked + fields[6:]
    message, apart = read_large_infer(memoryview(b"\x2a" + bytes([len(tensor)]) + tensor))
    assert apart is not None
    assert (apart.floats, list(message.inputs[0].contents.fp32_contents)) == ({}, [1.0, 2.0, 3.0])


def test_a_number_without_end_is_refused_at_its_first_step() -> None:
    """Reading each of its 32 MiB took seconds."""
    endless = length_delimited(0x1A, b"\xff" * 2**25)
    request = memoryview(length_delimited(0x2A, length_delimited(0x2A, endless)))
    began = time.thread_time()
    with pytest.raises(DecodeError, match="parsing"):
        read_large_infer(request)
    assert time.thread_time() - began < 1


def length_delimited(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varint(len(content)) + content


def test_many_typed_numbers_are_read_in_steps() -> None:
    """No number is cut between two of them."""
    numbers = np.random.default_rng(0).integers(-(2**40), 2**40, 200_000)
    contents = InferTensorContents(int64_contents=numbers)
    request = ModelInferRequest(inputs=[ModelInferRequest.InferInputTensor(contents=contents)])
    message, _ = read_large_infer(memoryview(request.SerializeToString()))
    assert np.array_equal(np.array(message.inputs[0].contents.int64_contents), numbers)


def test_many_rows_with_scales_are_read() -> None:
    """A server may take more rows of int8 than have scales in 64 KiB."""
    rows = encode_int8_rows(np.ones((20_000, 4), np.float32))
    call = large(EMBED, EmbedRequest(input=Input(tensor=rows)))
    np.testing.assert_array_equal(call.source.decoded("input.tensor"), decode_tensor(rows))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        pytest.param(EmbedRequest(backbone="a" * LONG), LimitExceededError, "bytes beside its data", id="a name"),
        pytest.param(
            EmbedRequest(input=Input(tensor=Tensor(row_scales=bytes(LONG)))), InvalidInputError, "Tensor", id="scales"
        ),
    ],
)
def test_a_request_with_much_beside_its_data_is_refused(data: EmbedRequest, error: Any, words: str) -> None:
    """The library would copy it while it holds the interpreter's lock."""
    with pytest.raises(error, match=words):
        large(EMBED, data)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        pytest.param(b"\x1a\x00\x1a\x00", InvalidInputError, "field 3 of EmbedRequest 2 times", id="two inputs"),
        pytest.param(b"\x1a\x04\x0a\x00\x12\x00", InvalidInputError, "2 fields, expected one of", id="two kinds"),
        pytest.param(b"\x1a\x09\x0a", DecodeError, "EmbedRequest are malformed", id="cut off"),
        pytest.param(b"\x0b\x0c", DecodeError, "malformed", id="a group"),
        pytest.param(b"\x02\x00", DecodeError, "malformed", id="the field 0"),
    ],
)
def test_a_request_of_a_strange_layout_is_refused(data: bytes, error: Any, words: str) -> None:
    """Merging fields that are repeated would copy their data."""
    assert EMBED.large is not None
    with pytest.raises(error, match=words):
        EMBED.large(memoryview(data))
