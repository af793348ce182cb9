"""Servers that answer with something else than they should: their calls get errors that say so, others their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from midrib.registry import TensorInput
from midrib.remote import Client
from midrib.v1 import backbone_pb2
from midrib.v1.embedding_pb2 import EmbedStreamRequest, EmbedStreamResponse, Opened, Result, SharedTensor, Timing
from midrib.v1.tensor_pb2 import DATA_TYPE_BOOL, DATA_TYPE_FLOAT32, DATA_TYPE_INT8, Tensor
from midrib.wire import (
    Array,
    DeadlineExceededError,
    InternalError,
    MidribError,
    UnsupportedError,
    encode_input_spec,
    encode_tensor,
)

NAME, REVISION = "test/numbers/hostile", "r" * 64
WIDTH, ROWS = 4, 3
GOOD = np.full((2, 8), 7, np.float32)
FEATURES = np.ones((ROWS, WIDTH), np.float32)


def description(**fields: Any) -> bytes:
    """Return the answer to GetBackbone."""
    ready = backbone_pb2.BACKBONE_STATE_READY
    described = {"state": ready, "compute_dtype": DATA_TYPE_FLOAT32, **fields}
    spec = encode_input_spec(TensorInput((8,)))
    backbone = backbone_pb2.Backbone(name=NAME, revision=REVISION, num_features=WIDTH, input=spec, **described)
    return backbone_pb2.GetBackboneResponse(backbone=backbone).SerializeToString()


def result(item_id: int, **fields: Any) -> bytes:
    return EmbedStreamResponse(result=Result(id=item_id, **fields)).SerializeToString()


def rows(array: Array) -> Callable[[int], bytes]:
    return lambda item_id: result(item_id, embedding=encode_tensor(array))


def tensor(dtype: Any, shape: tuple[int, ...], data: bytes = b"", **fields: Any) -> Callable[[int], bytes]:
    return lambda item_id: result(item_id, embedding=Tensor(dtype=dtype, shape=shape, data=data, **fields))


def refusal(code: int, *details: Any, value: bytes | None = None) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message="no")
    for detail in details:
        status.details.add().Pack(detail)
    if value is not None:
        status.details[0].value = value
    return status


def failed(status: status_pb2.Status) -> Callable[[int], bytes]:
    return lambda item_id: result(item_id, error=status)


class HostileServer(grpc.GenericRpcHandler):
    """Answers `GOOD` as it should, and other rows with the bytes of `answer`.

    described: the answer to GetBackbone.
    """

    def __init__(self) -> None:
        self.answer: Callable[[int], bytes] = rows(FEATURES)
        self.described = description()
        self.trailers: tuple[tuple[str, bytes], ...] = ()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method.endswith("/GetBackbone"):
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.described)
        return grpc.stream_stream_rpc_method_handler(self._stream)

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        next(requests)
        if self.trailers:
            context.set_trailing_metadata(self.trailers)
            context.abort(grpc.StatusCode.INTERNAL, "no")
        yield EmbedStreamResponse(opened=Opened(revision=REVISION, num_features=WIDTH)).SerializeToString()
        for request in map(EmbedStreamRequest.FromString, requests):
            is_good = len(request.item.input.tensor.data) == GOOD.nbytes
            yield (rows(FEATURES[:2]) if is_good else self.answer)(request.item.id)

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture()
def server() -> Iterator[HostileServer]:
    running = HostileServer()
    yield running
    running.stop()


def embedded(server: HostileServer, *, timeout: float = 20.0) -> Array:
    """Return the rows of a call that the server answers as it likes; a call beside it gets its rows in every case."""
    with Client(server.address, timeout=timeout) as client, futures.ThreadPoolExecutor(1) as threads:
        client.embed(NAME, GOOD)
        beside = threads.submit(client.embed, NAME, GOOD)
        try:
            return client.embed(NAME, np.zeros((ROWS, 8), np.float32))
        finally:
            assert beside.result().shape == (2, WIDTH)
            assert client.embed(NAME, GOOD).shape == (2, WIDTH)


CANNOT_BE_READ = "cannot be read"
OTHER_ROWS = "expected floating-point numbers of shape"
ANSWERS = {
    "an unknown element type": (tensor(99, (ROWS, WIDTH)), CANNOT_BE_READ),
    "too few bytes": (tensor(DATA_TYPE_FLOAT32, (ROWS, WIDTH), b"x"), CANNOT_BE_READ),
    "a size beyond 63 bits": (tensor(DATA_TYPE_FLOAT32, (2**40, 2**40)), CANNOT_BE_READ),
    "no rows of a huge width": (tensor(DATA_TYPE_FLOAT32, (0, 2**62)), CANNOT_BE_READ),
    "a bool of 2": (tensor(DATA_TYPE_BOOL, (ROWS, WIDTH), b"\2" * ROWS * WIDTH), CANNOT_BE_READ),
    "scales that are cut off": (
        tensor(DATA_TYPE_INT8, (ROWS, WIDTH), bytes(ROWS * WIDTH), row_scales=b"x"),
        CANNOT_BE_READ,
    ),
    "memory that is not shared": (
        lambda item_id: result(item_id, shared=SharedTensor(dtype=DATA_TYPE_FLOAT32, shape=(ROWS, WIDTH))),
        CANNOT_BE_READ,
    ),
    "another width": (rows(np.ones((ROWS, WIDTH + 1), np.float32)), OTHER_ROWS),
    "no width": (rows(np.ones((ROWS, 0), np.float32)), OTHER_ROWS),
    "more rows": (rows(np.ones((ROWS + 1, WIDTH), np.float32)), OTHER_ROWS),
    "one dimension": (rows(np.ones(ROWS, np.float32)), OTHER_ROWS),
    "integers": (rows(np.ones((ROWS, WIDTH), np.int64)), OTHER_ROWS),
    "neither rows nor an error": (result, "neither rows nor an error"),
    "details that cannot be read": (
        failed(refusal(code_pb2.INTERNAL, error_details_pb2.ErrorInfo(), value=b"\xff")),
        "no",
    ),
}


@pytest.mark.parametrize(("answer", "match"), ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_answer_fails_its_own_call(server: HostileServer, answer: Callable[[int], bytes], match: str) -> None:
    """The caller learns that the server is at fault, not their input."""
    server.answer = answer
    with pytest.raises(InternalError, match=match):
        embedded(server)


@pytest.mark.parametrize("answer", [b"\xff\xff\xff", b"\x12\x05\xff\xff\xff\xff\xff"], ids=["no message", "no result"])
def test_bytes_that_are_no_message_end_the_stream(server: HostileServer, answer: bytes) -> None:
    """Nobody knows which item they answer. The next call opens another stream."""
    server.answer = lambda _: answer
    with Client(server.address, timeout=20) as client:
        with pytest.raises(InternalError, match="bytes that are no message"):
            client.embed(NAME, np.zeros((ROWS, 8), np.float32))
        assert client.embed(NAME, GOOD).shape == (2, WIDTH)


@pytest.mark.parametrize("seconds", [-5, 0, 10**10, 2**62])
def test_a_call_waits_no_longer_than_its_timeout_for_another_attempt(server: HostileServer, seconds: int) -> None:
    """However long the server says, which may be no time that a timer takes."""
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))
    server.answer = failed(refusal(code_pb2.UNAVAILABLE, delay))
    with pytest.raises(DeadlineExceededError, match="within 1 s"):
        embedded(server, timeout=1.0)


@pytest.mark.parametrize("item_id", [0, 1000, 2**64 - 1])
def test_results_of_other_items_are_left_out(server: HostileServer, item_id: int) -> None:
    """No call gets the rows of an item that it did not send."""
    server.answer = lambda _: rows(FEATURES)(item_id)
    with pytest.raises(DeadlineExceededError, match="within 1 s"):
        embedded(server, timeout=1.0)


@pytest.mark.parametrize("seconds", [-(2**60), 2**62])
def test_wrong_times_change_nothing(server: HostileServer, seconds: int) -> None:
    """They decide how many messages are in flight."""
    time = duration_pb2.Duration(seconds=seconds)
    timing = Timing(queue=time, compute=time, total=time)
    server.answer = lambda item_id: result(item_id, embedding=encode_tensor(FEATURES), timing=timing)
    np.testing.assert_array_equal(embedded(server), FEATURES)


def test_a_status_that_cannot_be_read_is_that_of_its_code(server: HostileServer) -> None:
    """A proxy may add such trailers."""
    server.trailers = (("grpc-status-details-bin", b"\xff\xff"),)
    with Client(server.address, timeout=1.0) as client, pytest.raises(MidribError, match="broke: no"):
        client.embed(NAME, GOOD)


@pytest.mark.parametrize(
    ("described", "kind", "match"),
    [
        pytest.param(b"\xff", InternalError, "something else", id="no message"),
        pytest.param(description(state=77), UnsupportedError, "update this client", id="a state of a later version"),
        pytest.param(description(compute_dtype=99), UnsupportedError, "update this client", id="an unknown type"),
    ],
)
def test_a_description_that_cannot_be_read_is_an_error_of_ours(
    server: HostileServer, described: bytes, kind: type[MidribError], match: str
) -> None:
    """So that programs that handle a server's errors handle this one."""
    server.described = described
    with Client(server.address, timeout=5.0) as client, pytest.raises(kind, match=match):
        client.embed(NAME, GOOD)
