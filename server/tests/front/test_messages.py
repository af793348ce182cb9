"""gRPC's messages within DATA frames, however they are cut."""

from __future__ import annotations

import gzip
import resource
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest

from midrib.server._front.messages import Assembler, MessageError, prefixed
from midrib.server._large import Buffer


def packed(data: bytes) -> bytes:
    return b"\x01" + prefixed(data)[1:] + data


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def messages(assembler: Assembler, *frames: bytes) -> list[Buffer]:
    complete: list[Buffer] = []
    for payload in frames:
        assembler.feed(payload)
        while not assembler.missing:
            complete.append(await assembler.take())
    return complete


@pytest.mark.parametrize("size", [pytest.param(size, id=f"{size} bytes a frame") for size in (1, 2, 5, 7, 100)])
async def test_messages_do_not_depend_on_the_frames(size: int) -> None:
    """A frame may hold a part of a message, or several."""
    sent = [b"", b"a", b"", b"bc" * 20, b"d"]
    data = b"".join(prefixed(part) + part for part in sent)
    assert (
        await messages(Assembler("identity", 100), *(data[at : at + size] for at in range(0, len(data), size))) == sent
    )


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("deflate", zlib.compress, id="deflate")],
)
async def test_a_compressed_message_is_unpacked(encoding: str, pack: object) -> None:
    """Large messages are unpacked too."""
    sent = [b"x" * 10, bytes(range(256)) * 40]
    assert callable(pack)
    assert await messages(Assembler(encoding, 20_000), *(packed(pack(part)) for part in sent)) == sent


@pytest.mark.parametrize(
    ("encoding", "payload", "code", "words"),
    [
        pytest.param("identity", prefixed(bytes(2000)), "RESOURCE_EXHAUSTED", "2000 bytes", id="too long"),
        pytest.param("gzip", packed(gzip.compress(bytes(10**5))), "RESOURCE_EXHAUSTED", "at least", id="a bomb"),
        pytest.param("gzip", packed(gzip.compress(b"x" * 50)[:-9]), "INTERNAL", "cut off", id="cut off"),
        pytest.param("gzip", packed(b"no gzip"), "INTERNAL", "is not gzip", id="no gzip"),
        pytest.param("bomb", packed(b"x"), "UNIMPLEMENTED", "'bomb', expected one of", id="an unknown encoding"),
        pytest.param("identity", packed(b"x"), "INTERNAL", "'identity'", id="compressed without an encoding"),
    ],
)
async def test_a_message_is_refused_with_a_status(encoding: str, payload: bytes, code: str, words: str) -> None:
    """A length beyond the limit is refused before the message has arrived."""
    with pytest.raises(MessageError, match=words) as caught:
        await messages(Assembler(encoding, 1000), payload)
    assert caught.value.code is grpc.StatusCode[code]


MIB = 2**20


async def test_a_large_message_is_assembled_in_its_own_memory() -> None:
    """Without a copy of the whole, which would block the event loop; small messages before and after it are bytes."""
    sent = [b"before", bytes(range(256)) * (8192 + 1), b"", b"x" * (2 * MIB), b"after"]
    data = b"".join(prefixed(part) + part for part in sent)
    frames = (data[at : at + 60_000] for at in range(0, len(data), 60_000))
    received = await messages(Assembler("identity", 4 * MIB), *frames)
    assert [isinstance(message, memoryview) and message.readonly for message in received] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert [bytes(message) for message in received] == sent


async def test_a_large_message_that_is_announced_takes_memory_only_as_it_arrives() -> None:
    """A client may announce as many bytes as a message may have, and send one, in each of many calls."""
    before = resident_bytes()
    half_sent = [Assembler("identity", 256 * MIB) for _ in range(200)]
    for assembler in half_sent:
        assembler.feed(b"\0" + (256 * MIB).to_bytes(4, "big") + b"x")
    assert [assembler.missing for assembler in half_sent] == [256 * MIB - 1] * 200
    assert resident_bytes() - before < 64 * MIB


async def test_a_large_message_is_unpacked() -> None:
    """It may also be large before it is unpacked."""
    sent = np.random.default_rng(0).integers(0, 255, 3 * MIB, np.uint8).tobytes() + bytes(MIB)
    frames = packed(gzip.compress(sent, 1))
    assert await messages(Assembler("gzip", 4 * MIB), frames[:100_000], frames[100_000:]) == [sent]
