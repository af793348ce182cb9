"""The hand-written codec writes and reads protobuf's own bytes."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from midrib.remote._items.codec import Result, Timing, decode_result, encode_item
from midrib.remote._items.rows import audio_rows, image_rows, text_rows
from midrib.v1 import embedding_pb2
from midrib.wire import Array, InternalError, InvalidInputError, MidribError, encode_tensor, error_to_status

IDS = st.integers(0, 2**64 - 1)
DTYPES = st.sampled_from(["<f4", "<f2", "<f8", "i1", "u1", "<i8", "bfloat16"])
ROWS = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays of any element type that travels."""
    shape = draw(ROWS)
    filled = np.arange(np.prod(shape, dtype=int)) % 100
    return filled.reshape(shape).astype(draw(DTYPES))


@given(item_id=IDS, array=arrays(), cuts=st.integers(0, 5))
def test_an_item_is_written_as_protobuf_writes_it(item_id: int, array: Array, cuts: int) -> None:
    """The bytes equal the library's for any rows, in any number of parts."""
    message = embedding_pb2.EmbedStreamRequest(
        item=embedding_pb2.Item(id=item_id, input=embedding_pb2.Input(tensor=encode_tensor(array)))
    )
    pieces: list[bytes | memoryview] = [array[:cuts].tobytes(), memoryview(array[cuts:].tobytes())]
    assert encode_item(item_id, array.dtype, array.shape, pieces) == message.SerializeToString()


@given(item_id=IDS, texts=st.lists(st.text()))
def test_texts_are_written_as_protobuf_writes_them(item_id: int, texts: list[str]) -> None:
    """The codec writes the same bytes as protobuf's library."""
    texts_input = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=texts))
    assert text_rows(texts).encode(item_id, []) == _item(item_id, texts_input)


@given(item_id=IDS, images=st.lists(st.binary()))
def test_images_are_written_as_protobuf_writes_them(item_id: int, images: list[bytes]) -> None:
    """The codec writes the same bytes as protobuf's library."""
    images_input = embedding_pb2.Input(images=embedding_pb2.Images(encoded=images))
    assert image_rows(images).encode(item_id, []) == _item(item_id, images_input)


@given(item_id=IDS, clips=st.lists(npst.arrays("<i2", st.integers(1, 9))), rate=st.integers(1, 2**63 - 1))
def test_clips_are_written_as_protobuf_writes_them(item_id: int, clips: list[Array], rate: int) -> None:
    """The codec writes the same bytes as protobuf's library."""
    encoded = [encode_tensor(clip) for clip in clips]
    audio_input = embedding_pb2.Input(audio=embedding_pb2.AudioClips(clips=encoded, rate=rate))
    assert audio_rows(clips, rate).encode(item_id, []) == _item(item_id, audio_input)


@given(item_id=IDS, array=arrays(), nanos=st.integers(0, 999_999_999))
def test_a_result_is_read_as_protobuf_reads_it(item_id: int, array: Array, nanos: int) -> None:
    """Id, rows and timing come back as they were written."""
    timing = embedding_pb2.Timing(queue=Duration(seconds=1, nanos=nanos), total=Duration(nanos=nanos))
    result = embedding_pb2.Result(id=item_id, embedding=encode_tensor(array), timing=timing)
    got = _decoded(embedding_pb2.EmbedStreamResponse(result=result).SerializeToString())
    assert isinstance(got.outcome, np.ndarray)
    np.testing.assert_array_equal(got.outcome, array)
    assert (got.id, got.outcome.dtype, got.outcome.shape) == (item_id, array.dtype, array.shape)
    assert got.timing == Timing(1 + nanos * 1e-9, 0.0, nanos * 1e-9)


def test_fields_in_another_order_are_read_as_well() -> None:
    """protobuf allows any order: messages that the fast reader does not expect go to the library."""
    tensor = b"\x1a\x04\x00\x00\x80\x3f" + b"\x12\x02\x01\x01" + b"\x08\x01"  # data, shape, dtype
    result = b"\x12" + bytes([len(tensor)]) + tensor + b"\x08\x07"  # embedding, id
    got = _decoded(b"\x12" + bytes([len(result)]) + result)
    assert (got.id, np.asarray(got.outcome).tolist()) == (7, [[1.0]])


def test_an_error_becomes_the_exception_that_it_names() -> None:
    """A result that is a status carries kind, reason and message."""
    status = status_pb2.Status.FromString(
        error_to_status(InvalidInputError("row 3 holds NaN", reason="NOT_FINITE")).SerializeToString()
    )
    message = embedding_pb2.EmbedStreamResponse(result=embedding_pb2.Result(id=9, error=status))
    got = _decoded(message.SerializeToString())
    assert isinstance(got.outcome, MidribError)
    assert (got.id, type(got.outcome), got.outcome.reason) == (9, InvalidInputError, "NOT_FINITE")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(embedding_pb2.EmbedStreamResponse(), id="empty"),
        pytest.param(embedding_pb2.EmbedStreamResponse(opened=embedding_pb2.Opened(revision="r")), id="opened"),
        pytest.param(embedding_pb2.EmbedStreamResponse(go_away=embedding_pb2.GoAway()), id="go-away"),
    ],
)
def test_a_message_that_is_not_a_result_is_none(message: embedding_pb2.EmbedStreamResponse) -> None:
    """Other responses are left to the library."""
    assert decode_result(message.SerializeToString()) is None


class SharedRows:
    """Shared memory with room for one row of two features."""

    def tensor(self, shared: embedding_pb2.SharedTensor) -> Array:
        if shared.offset:
            raise ValueError("not inside")
        return np.ones((1, 2), np.float32)


@pytest.mark.parametrize("order", [1, -1], ids=["usual", "id-last"])
def test_a_result_in_shared_memory_is_a_view_of_it(order: int) -> None:
    """The fields of its message may be in any order."""
    got = decode_result(_shared_result(0, order), SharedRows())
    assert got is not None
    assert isinstance(got.outcome, np.ndarray)
    assert got.outcome.tolist() == [[1.0, 1.0]]
    assert (got.id, got.timing.total_s, got.shared_bytes) == (3, 1.0, 8)


@pytest.mark.parametrize("order", [1, -1], ids=["usual", "id-last"])
@pytest.mark.parametrize(("memory", "offset"), [(None, 0), (SharedRows(), 64)], ids=["no-memory", "outside"])
def test_a_wrong_place_fails_its_item_only(memory: SharedRows | None, offset: int, order: int) -> None:
    """Its outcome is an InternalError, because the server is at fault."""
    got = decode_result(_shared_result(offset, order), memory)
    assert got is not None
    assert (got.id, type(got.outcome), got.shared_bytes) == (3, InternalError, 0)


def _shared_result(offset: int, order: int) -> bytes:
    """Return a response, with the id first (1) or last (-1): protobuf allows any order."""
    timing = embedding_pb2.Timing(total=Duration(seconds=1))
    result = embedding_pb2.Result(shared=embedding_pb2.SharedTensor(offset=offset), timing=timing)
    content = b"".join([b"\x08\x03", result.SerializeToString()][::order])
    return b"\x12" + bytes([len(content)]) + content


def _decoded(data: bytes) -> Result:
    got = decode_result(data)
    assert got is not None
    return got


def _item(item_id: int, media: embedding_pb2.Input) -> bytes:
    item = embedding_pb2.Item(id=item_id, input=media)
    return embedding_pb2.EmbedStreamRequest(item=item).SerializeToString()
