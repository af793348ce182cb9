"""Records between the engine and a front process."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import grpc
import pytest
from hpack import Encoder

from midrib.server._front.headers import HeadDecoder, RequestHead
from midrib.server._front.messages import MessageError
from midrib.server._front.processes.front import BYTES_PER_METADATA_BYTE
from midrib.server._front.processes.link import Link
from midrib.server._front.processes.records import (
    FromEngine,
    decode_open,
    decode_refusal,
    encode_open,
    encode_refusal,
)
from midrib.server._front.processes.remote_stream import RemoteStream

MAX_BYTES = 2**23
LARGE = bytes(range(256)) * 2**14  # 4 MiB: more than a socket takes at once
HEAD = RequestHead("/service/Method", (("name", "value"), ("trace-bin", b"\x00\xff")), 1.5)


class End:
    """One end of a link that notes the records of its kind 0, and whether the other end is gone."""

    def __init__(self, connected: socket.socket) -> None:
        self.records: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.link = Link(connected, MAX_BYTES)
        self.link.start([lambda call, payload: self.records.put_nowait((call, payload))], self.lost.set)


@pytest.fixture()
async def sockets() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


async def test_records_arrive_in_order_and_whole(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Small ones are joined, large ones are sent in parts."""
    first, second = map(End, sockets)
    sent = [(1, b"a"), (2, LARGE), (3, b""), (2**63, LARGE), (5, b"b")]
    for call, payload in sent:
        first.link.send(0, call, payload)
    async with asyncio.timeout(20):
        assert [await second.records.get() for _ in sent] == sent
    first.link.close()
    await asyncio.wait_for(second.lost.wait(), 20)
    second.link.close()


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(struct.pack("<BQI", 0, 1, MAX_BYTES + 1), id="too large"),
        pytest.param(struct.pack("<BQI", 1, 1, 0), id="unknown kind"),
    ],
)
async def test_a_record_against_the_protocol_ends_the_link(
    sockets: tuple[socket.socket, socket.socket], record: bytes
) -> None:
    """The process at the other end may have been taken over: it cannot make this one receive without limit."""
    end = End(sockets[0])
    sockets[1].send(record)
    await asyncio.wait_for(end.lost.wait(), 20)
    assert end.records.empty()


def test_headers_are_the_same_in_the_engine() -> None:
    """Text, bytes, the timeout and a refusal."""
    refused = HEAD._replace(timeout_s=None, refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many bytes"))
    assert [decode_open(encode_open("ipv4:127.0.0.1:1", head)) for head in (HEAD, refused)] == [
        ("ipv4:127.0.0.1:1", HEAD),
        ("ipv4:127.0.0.1:1", refused),
    ]


def test_the_longest_refused_head_fits_into_a_record() -> None:
    """Otherwise the client that sends it would end the front process, and with it the connections of others."""
    path, kind = (":path", b"\xff" * 3800), ("content-type", "application/grpc")
    fields: list[tuple[bytes | str, bytes | str]] = [(":method", "POST"), path, kind]
    head = HeadDecoder(1000).head(Encoder().encode(fields, huffman=False))
    assert head.refusal is not None
    assert 20 * 1000 < len(encode_open("peer", head)) < BYTES_PER_METADATA_BYTE * 1000


def test_a_refused_message_is_the_same_in_the_engine() -> None:
    """Its code and its text."""
    error = decode_refusal(encode_refusal(MessageError(grpc.StatusCode.INTERNAL, "cut off")))
    assert (error.code, str(error)) == (grpc.StatusCode.INTERNAL, "cut off")


async def test_a_large_answer_holds_its_item_until_it_is_sent(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A few bytes may wait in the front process, more may not."""
    link = Link(sockets[0], MAX_BYTES)
    stream = RemoteStream(7, HEAD, link)
    await asyncio.wait_for(stream.write(bytes(4096)), 20)
    writing = asyncio.ensure_future(stream.write(b"one more"))
    await asyncio.sleep(0)
    assert not writing.done()
    stream.sent(1)
    await asyncio.wait_for(writing, 20)
    link.close()


async def test_a_read_says_which_messages_have_arrived(sockets: tuple[socket.socket, socket.socket]) -> None:
    """So a message that crosses the request is not followed by another one without room for it."""
    link = Link(sockets[0], MAX_BYTES)
    stream = RemoteStream(7, HEAD, link)
    stream.receive(b"first")
    assert await stream.read() == b"first"
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0)
    link.flush()
    record = struct.pack("<BQI", FromEngine.READ, 7, 8) + struct.pack("<Q", 1)
    assert sockets[1].recv(100) == record
    stream.receive_end()
    assert await asyncio.wait_for(reading, 20) is None
    link.close()
