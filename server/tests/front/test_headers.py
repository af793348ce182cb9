"""The headers of a call, as HPACK's bytes."""

from __future__ import annotations

import time

import grpc
import pytest
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple

from midrib.server._front.frames import Http2Error, StreamError
from midrib.server._front.headers import HeadDecoder, only_trailers, trailers

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/midrib.v1.EmbeddingService/Embed"),
    (b":authority", b"x"),
    (b"content-type", b"application/grpc+proto"),
    (b"te", b"trailers"),
]


def head(*more: tuple[bytes, bytes], max_metadata_bytes: int = 1000) -> object:
    return HeadDecoder(max_metadata_bytes).head(Encoder().encode([*CALL, *more]))


def test_a_call_has_its_path_and_its_own_metadata() -> None:
    """Values of names that end in -bin are bytes; fields of the protocol are not metadata."""
    read = HeadDecoder(1000).head(Encoder().encode([*CALL, (b"authorization", b"Bearer x"), (b"trace-bin", b"AAE")]))
    assert read.path == "/midrib.v1.EmbeddingService/Embed"
    assert read.metadata == (("authorization", "Bearer x"), ("trace-bin", b"\x00\x01"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param(b"2S", 2.0, id="seconds"),
        pytest.param(b"1500m", 1.5, id="milliseconds"),
        pytest.param(b"3u", 3e-6, id="microseconds"),
        pytest.param(b"2H", 7200.0, id="hours"),
        pytest.param(b"123456789S", None, id="too many digits"),
        pytest.param(b"-5S", None, id="negative"),
        pytest.param(b"5", None, id="without a unit"),
    ],
)
def test_a_timeout_is_read_in_its_unit(value: bytes, seconds: float | None) -> None:
    """A value that is not a timeout is ignored, as gRPC's libraries do."""
    read = HeadDecoder(1000).head(Encoder().encode([*CALL, (b"grpc-timeout", value)]))
    assert read.timeout_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "field",
    [
        pytest.param((b"X-Upper", b""), id="an upper-case name"),
        pytest.param((b"", b"x"), id="an empty name"),
        pytest.param((b"connection", b"close"), id="a field of HTTP/1"),
        pytest.param((b":path", b"/again"), id="a late pseudo-header"),
        pytest.param((b"x", b"a\r\nb"), id="a line end"),
        pytest.param((b"x-bin", b"\xff no base64"), id="no base64"),
    ],
)
def test_a_field_against_the_rules_ends_the_stream(field: tuple[bytes, bytes]) -> None:
    """RFC 9113, section 8.2, lists the rules."""
    with pytest.raises(StreamError, match="header"):
        head(field)


def test_headers_over_the_limit_are_refused_with_a_status() -> None:
    """Only their call ends, and the connection stays."""
    read = HeadDecoder(1000).head(Encoder().encode([*CALL, (b"x", b"y" * 1000)]))
    assert read.refusal is not None
    assert read.refusal[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_headers_far_over_the_limit_end_the_connection() -> None:
    """They are not read to their end, so the next ones could not be read."""
    with pytest.raises(Http2Error, match="headers_too_large"):
        head((b"x", b"y" * 10_000))


def test_binary_values_that_a_proxy_has_joined_are_separated() -> None:
    """As gRPC over HTTP/2 demands."""
    read = HeadDecoder(1000).head(Encoder().encode([*CALL, (b"trace-bin", b"AAE=, AAI")]))
    assert read.metadata == (("trace-bin", b"\x00\x01"), ("trace-bin", b"\x00\x02"))


@pytest.mark.parametrize("first", [b"\xff", b"\x3f", b"\x00\x7f"], ids=["index", "table size", "length"])
def test_a_number_of_many_bytes_is_refused_at_once(first: bytes) -> None:
    """Versions of hpack before 4.2 add up such a number for half a second."""
    start_s = time.thread_time()
    with pytest.raises(Http2Error, match="invalid_header_block"):
        HeadDecoder(16_384).head(first + b"\xff" * 65_000 + b"\x01")
    assert time.thread_time() - start_s < 0.1


def test_equal_bytes_mean_other_headers_once_the_table_has_changed() -> None:
    """A block of indexes is read again after a block that adds to HPACK's table."""
    decoder, encoder = HeadDecoder(1000), Encoder()
    decoder.head(encoder.encode([*CALL, (b"x", b"first")]))
    indexes = encoder.encode([*CALL, (b"x", b"first")])
    assert decoder.head(indexes).metadata == decoder.head(indexes).metadata == (("x", "first"),)
    decoder.head(encoder.encode([*CALL, (b"x", b"second")]))
    assert decoder.cached(indexes) is None


def test_trailers_that_change_the_table_change_the_headers_of_equal_bytes() -> None:
    """A proxy that sends the calls of several users must not give one user's token to another."""
    decoder, encoder = HeadDecoder(1000), Encoder()
    call = [NeverIndexedHeaderTuple(*field) for field in CALL]
    decoder.head(encoder.encode([*call, (b"authorization", b"Bearer first")]))
    first = encoder.encode([*call, (b"authorization", b"Bearer first")])
    assert decoder.head(first).metadata == (("authorization", "Bearer first"),)
    decoder.fields(encoder.encode([(b"authorization", b"Bearer second")]))
    assert encoder.encode([*call, (b"authorization", b"Bearer second")]) == first
    assert decoder.cached(first) is None
    assert decoder.head(first).metadata == (("authorization", "Bearer second"),)


def test_a_block_that_resizes_the_table_is_read_each_time() -> None:
    """The decoder has to follow each change of the size."""
    decoder, encoder = HeadDecoder(1000), Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(CALL)
    decoder.head(block)
    assert decoder.cached(block) is None


def test_a_status_is_written_as_grpc_encodes_it() -> None:
    """The message is percent-encoded UTF-8, binary metadata is base64 without padding."""
    block = trailers(grpc.StatusCode.NOT_FOUND, "100 % of größe\n", [("details-bin", b"\x00\x01")])
    assert list(Decoder().decode(block, raw=True)) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"100 %25 of gr%C3%B6%C3%9Fe%0A"),
        (b"details-bin", b"AAE"),
    ]


def test_long_values_have_their_length() -> None:
    """RFC 7541, 5.1: a length of more than seven bits continues in further bytes."""
    block = only_trailers(200, trailers(grpc.StatusCode.UNKNOWN, "x" * 20_000, ()))
    assert dict(Decoder().decode(block, raw=True))[b"grpc-message"] == b"x" * 20_000
