"""Send any bytes to each reader of messages: the result is a value or a MidribError, and takes little memory.

No server runs here: readers are called as the server calls them, with inputs that lie about their size. The
grammar of valid and of changed messages is in test_fuzz_grpc.py; benchmarks/soak/fuzz.py gives these
functions to atheris as well.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import TensorInput
from midrib.server._grpc.codecs.fast import CODECS
from midrib.server._http.body import loads, read_fields
from midrib.server._http.embeddings import EmbeddingsBody
from midrib.server._oip.contents import read_input
from midrib.v1 import backbone_pb2, tensor_pb2
from midrib.wire import MidribError, decode_input_spec, decode_tensor, status_to_error

FUZZ = settings(max_examples=100, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
# An int64 in a message takes a byte at least, and eight in an array; a Python object as the parser makes it, some more.
_WORTH = 100
_FLOOR = 2**20


def read_tensor(data: bytes) -> object:
    return decode_tensor(tensor_pb2.Tensor.FromString(data))


def read_infer(data: bytes) -> object:
    return asyncio.run(read_input(oip.ModelInferRequest.FromString(data), max_rows=1024))


def read_spec(data: bytes) -> object:
    return decode_input_spec(backbone_pb2.InputSpec.FromString(data))


def read_status(data: bytes) -> object:
    return status_to_error(status_pb2.Status.FromString(data))


def read_http_body(data: bytes) -> EmbeddingsBody:
    return read_fields(EmbeddingsBody, loads(data))


READERS: dict[str, Callable[[bytes], object]] = {
    "tensor": read_tensor,
    "infer": read_infer,
    "input spec": read_spec,
    "status": read_status,
    "embed": CODECS["/midrib.v1.EmbeddingService/Embed"].parse,
    "stream request": CODECS["/midrib.v1.EmbeddingService/EmbedStream"].parse,
    "http body": read_http_body,
}


@contextmanager
def bounded(limit: int) -> Iterator[None]:
    """At most this number of bytes is allocated at the same time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes were allocated, at most {limit} are allowed"


def check_read(read: Callable[[bytes], object], data: bytes) -> None:
    """A value, one of our errors, or no message at all; nothing else, and within bounds."""
    with bounded(_FLOOR + _WORTH * len(data)), suppress(MidribError, DecodeError):
        read(data)


SIZES = st.sampled_from([0, 1, 2, 2**31, 2**62, 2**63 - 1, -1]) | st.integers(-(2**63), 2**63 - 1)
TENSORS = st.builds(
    tensor_pb2.Tensor,
    dtype=st.integers(-1, 12),
    shape=st.lists(SIZES, max_size=10),
    data=st.binary(max_size=64),
)
CONTENTS = st.builds(
    oip.InferTensorContents,
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    fp64_contents=st.lists(st.floats(), max_size=4),
    bytes_contents=st.lists(st.binary(max_size=8), max_size=4),
)
INFERS = st.builds(
    oip.ModelInferRequest,
    inputs=st.lists(
        st.builds(
            oip.ModelInferRequest.InferInputTensor,
            name=st.sampled_from(["input", "texts", "images", "x"]),
            datatype=st.sampled_from(["FP32", "FP16", "INT8", "INT64", "BOOL", "BYTES", "UINT64", ""]),
            shape=st.lists(SIZES, max_size=10),
            contents=st.none() | CONTENTS,
        ),
        max_size=2,
    ),
    raw_input_contents=st.lists(st.binary(max_size=40) | st.just(b"\xff\xff\xff\xff"), max_size=2),
)
STRUCTURED = (TENSORS | INFERS).map(lambda message: bytes(message.SerializeToString()))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@FUZZ
@given(data=st.binary(max_size=200))
@example(data=b"[" * 100_000)
@example(data=b"\x0a" * 100_000)
def test_any_bytes_are_read_or_refused(read: Callable[[bytes], object], data: bytes) -> None:
    """The bytes are random, or nest messages deeply."""
    check_read(read, data)


@pytest.mark.parametrize("read", [read_tensor, read_infer], ids=["tensor", "infer"])
@FUZZ
@given(data=STRUCTURED)
def test_any_shape_and_any_contents_are_read_or_refused(read: Callable[[bytes], object], data: bytes) -> None:
    """Shapes that overflow, that lie about their bytes, that are empty and huge; contents of another type."""
    check_read(read, data)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2**40]), id="no data"),
        pytest.param(tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_INT8, shape=[2**31, 2**31, 0]), id="empty"),
    ],
)
def test_a_shape_allocates_nothing(message: Any) -> None:
    """Only bytes that came are ever held."""
    check_read(read_tensor, message.SerializeToString())


@pytest.mark.parametrize("size", [-2, 2**62], ids=["negative", "huge"])
def test_an_input_spec_is_read_or_refused(size: int) -> None:
    """A server's description may be wrong, too: clients read it."""
    spec = backbone_pb2.InputSpec(tensor=backbone_pb2.TensorInput(shape=[size], dtype=tensor_pb2.DATA_TYPE_FLOAT32))
    check_read(read_spec, spec.SerializeToString())
    good = backbone_pb2.InputSpec(tensor=backbone_pb2.TensorInput(shape=[-1], dtype=tensor_pb2.DATA_TYPE_FLOAT32))
    assert decode_input_spec(good) == TensorInput((None,))
