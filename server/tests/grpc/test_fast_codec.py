"""The hand-written codec of the hot messages reads and writes protobuf's own bytes."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from midrib.server._grpc.codecs.fast import (
    CODECS,
    write_embed_response,
    write_result,
    written,
)
from midrib.server._grpc.codecs.messages import StreamItem
from midrib.v1 import tensor_pb2
from midrib.v1.embedding_pb2 import (
    EmbedRequest,
    EmbedResponse,
    EmbedStreamRequest,
    EmbedStreamResponse,
    Input,
    Item,
    Open,
    Options,
    Result,
    Texts,
    Timing,
)
from midrib.wire import Array, decode_tensor, encode_int8_rows, encode_tensor

EMBED = CODECS["/midrib.v1.EmbeddingService/Embed"]
EMBED_STREAM = CODECS["/midrib.v1.EmbeddingService/EmbedStream"]
IDS = st.integers(0, 2**64 - 1)
DTYPES = st.sampled_from(["<f4", "<f2", "<f8", "i1", "<i8", "bfloat16"])
TIMING = Timing(queue=Duration(nanos=5), compute=Duration(seconds=1), total=Duration(seconds=1, nanos=7))
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
SLOW = settings(max_examples=200)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays [rows, ...] of any element type that an embedding or an input has."""
    shape = draw(npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    return (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(draw(DTYPES))


embeds = st.builds(
    EmbedRequest,
    backbone=st.text(max_size=20),
    revision=st.none() | st.text(max_size=5),
    input=arrays().map(lambda array: Input(tensor=encode_tensor(array))) | st.just(Input(texts=Texts(texts=["a"]))),
    options=st.none() | st.builds(Options, normalize=st.booleans(), dimensions=st.none() | st.integers(0, 9)),
    priority=st.integers(0, 3),
)
items = st.builds(lambda number, rows: Item(id=number, input=Input(tensor=encode_tensor(rows))), IDS, arrays())


@st.composite
def changed(draw: st.DrawFn, message: bytes) -> bytes:
    """A message with a byte of its head replaced, dropped or put in, or one that continues."""
    at = draw(st.integers(0, min(len(message), 40)))
    with_byte = message[:at] + draw(st.binary(max_size=3)) + message[at + draw(st.integers(0, 2)) :]
    return with_byte + draw(st.sampled_from([b"", b"\x28\x01", message]))


def same(array: Array, message: tensor_pb2.Tensor) -> bool:
    decoded = decode_tensor(message)
    return (array.dtype, array.shape, array.tobytes()) == (decoded.dtype, decoded.shape, decoded.tobytes())


def check_embed(data: bytes) -> None:
    """The reader gives the same as protobuf's library, errors included."""
    try:
        expected = EmbedRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError, match="Error parsing message"):
            EMBED.parse(data)
        return
    request, tensor = EMBED.parse(data)
    if tensor is not None:
        assert same(tensor, expected.input.tensor)
        expected.ClearField("input")
    assert request == expected


def check_item(data: bytes) -> None:
    """The same for a message of a stream."""
    try:
        expected = EmbedStreamRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError, match="Error parsing message"):
            EMBED_STREAM.parse(data)
        return
    got = EMBED_STREAM.parse(data)
    if not isinstance(got, StreamItem):
        assert got == expected
        return
    assert (got.id, expected.item.input.WhichOneof("kind")) == (expected.item.id, "tensor")
    assert isinstance(got.source, np.ndarray)
    assert same(got.source, expected.item.input.tensor)


@SLOW
@given(embeds)
def test_an_embed_is_read_as_protobuf_reads_it(request: EmbedRequest) -> None:
    """Any fields are read; a tensor is read apart from the others."""
    check_embed(request.SerializeToString())


@SLOW
@given(embeds.map(EmbedRequest.SerializeToString).flatmap(changed))
def test_bytes_that_are_no_usual_embed_are_read_as_protobuf_reads_them(data: bytes) -> None:
    """For repeated, reordered, cut off or unknown fields, the library decides."""
    check_embed(data)


@SLOW
@given(items)
def test_an_item_is_read_as_protobuf_reads_it(item: Item) -> None:
    """Id, element type, shape and every byte."""
    check_item(EmbedStreamRequest(item=item).SerializeToString())


@SLOW
@given(items.map(lambda item: EmbedStreamRequest(item=item).SerializeToString()).flatmap(changed))
def test_items_of_another_layout_are_read_by_the_library(data: bytes) -> None:
    """They give the same message, as Embed requests do."""
    check_item(data)


@pytest.mark.parametrize("size", [0, 1, 7, 20])
def test_a_message_that_is_cut_off_is_refused(size: int) -> None:
    """The handler answers INVALID_ARGUMENT; it never sees half a tensor."""
    request = EmbedRequest(backbone="a", input=Input(tensor=encode_tensor(ROWS))).SerializeToString()
    check_embed(request[:size])
    check_item(EmbedStreamRequest(item=Item(id=1, input=Input(tensor=encode_tensor(ROWS)))).SerializeToString()[:size])


def test_a_tensor_is_a_view_of_its_message() -> None:
    """No byte of it is copied."""
    _, tensor = EMBED.parse(EmbedRequest(backbone="a", input=Input(tensor=encode_tensor(ROWS))).SerializeToString())
    assert tensor is not None
    assert not tensor.flags.owndata


def test_other_messages_of_a_stream_are_read_by_the_library() -> None:
    """These are `open` and items of media."""
    opened = EmbedStreamRequest(open=Open(backbone="a"))
    texts = EmbedStreamRequest(item=Item(id=1, input=Input(texts=Texts(texts=["a"]))))
    assert EMBED_STREAM.parse(opened.SerializeToString()) == opened
    assert EMBED_STREAM.parse(texts.SerializeToString()) == texts


@SLOW
@given(IDS, arrays().filter(lambda rows: rows.ndim == 2))
def test_an_embedding_is_written_as_protobuf_writes_it(item_id: int, rows: Array) -> None:
    """This holds for a stream's response and for that of a call."""
    result = Result(id=item_id, embedding=encode_tensor(rows), timing=TIMING)
    assert write_result(item_id, rows, Options(), TIMING) == EmbedStreamResponse(result=result).SerializeToString()
    response = EmbedResponse(embedding=encode_tensor(rows), revision="abc", timing=TIMING)
    assert write_embed_response(rows, Options(), "abc", TIMING) == response.SerializeToString()


def test_rows_in_a_byte_an_element_keep_their_scales() -> None:
    """They are made when they are written."""
    result = Result(id=3, embedding=encode_int8_rows(ROWS), timing=TIMING)
    int8_options = Options(dtype=tensor_pb2.DATA_TYPE_INT8)
    assert write_result(3, ROWS, int8_options, TIMING) == EmbedStreamResponse(result=result).SerializeToString()


def test_rows_that_do_not_lie_together_are_written_too() -> None:
    """Those of a truncated embedding do not."""
    response = EmbedResponse(embedding=encode_tensor(ROWS[:, :2]), revision="abc", timing=TIMING)
    assert write_embed_response(ROWS[:, :2], Options(), "abc", TIMING) == response.SerializeToString()


def test_other_responses_are_written_by_the_library() -> None:
    """These are refusals, `opened` and `go_away`."""
    response = EmbedStreamResponse(result=Result(id=1))
    assert written(response) == response.SerializeToString()
