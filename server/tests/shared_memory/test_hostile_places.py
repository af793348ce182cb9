"""Items whose place in shared memory is wrong, or whose bytes change: only their own client is affected."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry, TensorInput
from midrib.server._shared_memory.streams import StreamMemory
from midrib.server.testing import RunningServer, serving
from midrib.v1.embedding_pb2 import EmbedStreamRequest, Input, Options
from midrib.v1.embedding_pb2_grpc import EmbeddingServiceStub
from midrib.v1.tensor_pb2 import DATA_TYPE_BOOL, DATA_TYPE_INT8, DATA_TYPE_INT64, DATA_TYPE_UNSPECIFIED
from midrib.wire import encode_tensor, status_to_error
from server.tests.conftest import load_gate
from server.tests.shared_memory.hostile_client import (
    SharedStream,
    descriptors,
    features,
    rows_of,
    sent_item,
    shared_item,
)

SEGMENT = 24 << 20
FINITE = Registry("for finite values")
FINITE(name="finite", namespace="test/embedding", input=TensorInput((2,)), finite=True)(load_gate)
WRONG = [
    pytest.param(shared_item(1, offset=SEGMENT), "shared.input.offset", id="behind-the-end"),
    pytest.param(shared_item(1, offset=SEGMENT - 64, shape=(9, 2)), "shared.input.offset", id="over-the-end"),
    pytest.param(shared_item(1, offset=4), "multiple of 64", id="unaligned"),
    pytest.param(shared_item(1, offset=2**64 - 64), "shared.input.offset", id="largest-offset"),
    pytest.param(shared_item(1, shape=(2**40, 2)), "inside a segment", id="more-rows-than-memory"),
    pytest.param(shared_item(1, shape=(2**61, 2**61)), "overflows", id="a-size-beyond-63-bits"),
    pytest.param(shared_item(1, shape=(-1, 2)), "negative", id="negative"),
    pytest.param(shared_item(1, shape=(1,) * 9), "9 dimensions", id="too-many-dimensions"),
    pytest.param(shared_item(1, shape=()), r"shape \[\]", id="a-scalar"),
    pytest.param(shared_item(1, dtype=DATA_TYPE_BOOL), "bool", id="bool"),
    pytest.param(shared_item(1, dtype=DATA_TYPE_UNSPECIFIED), "unspecified", id="without-a-type"),
    pytest.param(shared_item(1, dtype=99), "unknown", id="an-unknown-type"),
    pytest.param(shared_item(1, result_offset=SEGMENT, result_bytes=8), "result_offset", id="result-behind-the-end"),
    pytest.param(shared_item(1, result_offset=0, result_bytes=2**64 - 1), "result_offset", id="result-over-the-end"),
    pytest.param(shared_item(1, result_offset=1, result_bytes=8), "multiple of 64", id="result-unaligned"),
]


@pytest.fixture()
def stream(embedding: Any) -> Iterator[SharedStream]:
    """A stream of `gate` with its memory."""
    opened = SharedStream(embedding, "gate")
    opened.fetch()
    yield opened
    opened.finish()


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_an_item_outside_the_segment_is_refused(stream: SharedStream, wrong: EmbedStreamRequest, words: str) -> None:
    """It fails alone, and the stream continues."""
    stream.send(wrong, sent_item(2, rows_of(1, 2)))
    results = {result.id: result for result in (stream.result(), stream.result())}
    error = status_to_error(results[1].error)
    assert error.reason == "INVALID_INPUT"
    assert features(results[2]) == [[2, 4]]
    with pytest.raises(type(error), match=words):
        raise error


def test_an_item_with_two_inputs_is_refused(stream: SharedStream) -> None:
    """It is not clear which one is meant."""
    both = shared_item(1)
    both.item.input.CopyFrom(Input(tensor=encode_tensor(rows_of(1, 2))))
    stream.send(both)
    assert "both" in stream.result().error.message


def test_an_item_of_a_stream_without_memory_is_refused(embedding: Any) -> None:
    """The client has not fetched the segment, so there is none."""
    stream = SharedStream(embedding, "gate")
    stream.send(shared_item(1))
    assert "this stream does not have" in stream.result().error.message
    stream.finish()


def test_rows_and_features_lie_in_the_segment(stream: SharedStream) -> None:
    """The features go where the item says, if they fit there."""
    stream.write(64, rows_of(3, 4))
    stream.send(shared_item(1, offset=64, result_offset=128, result_bytes=8))
    shared = stream.result().shared
    assert (shared.offset, list(shared.shape)) == (128, [1, 2])
    assert np.frombuffer(stream.memory, np.float32, 2, 128).tolist() == [6, 8]


def test_features_that_do_not_fit_come_in_the_message(stream: SharedStream) -> None:
    """A place that is too small is not written to."""
    stream.write(64, rows_of(3, 4))
    stream.send(shared_item(1, offset=64, result_offset=128, result_bytes=7))
    assert features(stream.result()) == [[6, 8]]
    assert stream.memory[128:136] == bytes(8)


def test_places_of_features_that_come_in_messages_are_forgotten(embedding: Any) -> None:
    """Those of int8 always do. A stream may last for days, and later items may use the place."""
    stream = SharedStream(embedding, "gate", Options(dtype=DATA_TYPE_INT8))
    stream.fetch()
    stream.write(64, rows_of(3, 4))
    stream.send(shared_item(1, offset=64, result_offset=128, result_bytes=8))
    assert stream.result().HasField("embedding")
    memories = [memory for memory in gc.get_objects() if type(memory) is StreamMemory]
    assert [memory._places for memory in memories if memory._segment is not None] == [{}]
    stream.finish()


@pytest.mark.parametrize("size", [0, 4096, SEGMENT - 1, SEGMENT + 1, 2 * SEGMENT])
def test_the_segment_keeps_its_size(stream: SharedStream, size: int) -> None:
    """It is sealed: otherwise reading it could end the server with SIGBUS."""
    with pytest.raises(PermissionError, match="not permitted"):
        os.ftruncate(stream.descriptor, size)


def test_a_hole_in_the_segment_reads_as_zeros(stream: SharedStream) -> None:
    """A client can give the pages back while the server reads them."""
    stream.write(0, rows_of(3, 4))
    stream.memory.madvise(mmap.MADV_REMOVE)
    stream.send(shared_item(1))
    assert features(stream.result()) == [[0, 0]]


def test_bytes_that_change_during_a_pass_leave_other_clients_alone(embedding: Any, gate: Any) -> None:
    """The rows of another client, queued behind them, are right."""
    hostile, other = SharedStream(embedding, "gate"), SharedStream(embedding, "gate")
    hostile.fetch()
    hostile.write(0, rows_of(13, 1))
    hostile.send(shared_item(1))
    assert gate.passing.wait(10)
    hostile.send(shared_item(2, offset=64))
    other.send(sent_item(1, rows_of(5, 6)))
    hostile.write(0, np.full((1024, 2), np.nan, np.float32))
    gate.opened.set()
    assert features(other.result()) == [[10, 12]]
    hostile.finish()
    other.finish()


def test_token_ids_are_checked_in_memory_that_the_client_cannot_change(media_server: RunningServer) -> None:
    """Ids that flip between a valid one and one outside the vocabulary never reach the module unchecked."""
    valid, outside = np.ones((1, 8), np.int64).tobytes(), np.full((1, 8), 2**40, np.int64).tobytes()
    with grpc.insecure_channel(media_server.address) as channel:
        stream = SharedStream(EmbeddingServiceStub(channel), "words")
        stream.fetch()
        stop = threading.Event()
        writer = threading.Thread(target=_flip, args=(stream, valid, outside, stop))
        writer.start()
        stream.send(*(shared_item(number, shape=(1, 8), dtype=DATA_TYPE_INT64) for number in range(300)))
        reasons = {_reason(stream) for _ in range(300)}
        stop.set()
        writer.join()
        stream.finish()
    assert reasons <= {"", "INVALID_INPUT"}


def _flip(stream: SharedStream, valid: bytes, outside: bytes, stop: threading.Event) -> None:
    while not stop.is_set():
        stream.memory[: len(valid)] = outside
        stream.memory[: len(valid)] = valid


def _reason(stream: SharedStream) -> str:
    result = stream.result()
    return status_to_error(result.error).reason if result.HasField("error") else ""


def test_a_server_that_shares_no_memory_offers_none(test_registry: Registry) -> None:
    """`shared_memory = false` turns it off; the stream works without."""
    with (
        serving("gate", registry=test_registry, shared_memory=False) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stream = SharedStream(EmbeddingServiceStub(channel), "gate")
        assert not stream.opened.HasField("shared_memory")
        stream.send(sent_item(1, rows_of(1, 2)))
        assert features(stream.result()) == [[2, 4]]
        stream.finish()


def test_a_key_works_once(stream: SharedStream) -> None:
    """A second process cannot map the memory of a stream that has it."""
    assert descriptors(stream.offer, stream.offer.key) == []


def test_finite_values_are_checked_in_memory_that_the_client_cannot_change(gate: Any) -> None:
    """NaN that is written after the check, while the item waits, never reaches the module."""
    with (
        serving("finite", registry=FINITE) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stream = SharedStream(EmbeddingServiceStub(channel), "finite")
        stream.fetch()
        stream.write(64, rows_of(3, 4))
        stream.send(sent_item(1, rows_of(13, 1)), shared_item(2, offset=64), sent_item(3, rows_of(np.nan, 1)))
        assert stream.result().error.message.startswith("input.tensor has NaN")
        stream.write(64, rows_of(np.nan, np.nan))
        gate.opened.set()
        assert [features(stream.result()), features(stream.result())] == [[[26, 2]], [[6, 8]]]
        stream.finish()
