"""The segment of a stream, from the client's side: its places, and offers of servers that are not to be trusted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import secrets
import socket
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from midrib.remote._shared_memory.fetch import fetch_segment
from midrib.remote._shared_memory.segment import MappedSegment
from midrib.remote._stream.sharing import SharedMessages
from midrib.v1.embedding_pb2 import SharedMemory, SharedTensor
from midrib.v1.tensor_pb2 import DATA_TYPE_FLOAT32
from midrib.wire import InvalidInputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only")
SIZE = 4096


def sealed(size: int = SIZE) -> int:
    """Return the descriptor of a segment as servers make it."""
    descriptor = unsealed(size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def unsealed(size: int = SIZE) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


@pytest.fixture()
def segment() -> Iterator[MappedSegment]:
    descriptor = sealed()
    mapped = MappedSegment(descriptor, SIZE)
    os.close(descriptor)
    yield mapped
    mapped.close()


def test_two_large_messages_fit_a_segment() -> None:
    """16 images of 3x224x224 are one part, because each part costs half a millisecond; the next part fits too."""
    descriptor = sealed(24 << 20)
    mapped = MappedSegment(descriptor, 24 << 20)
    os.close(descriptor)
    images_bytes, reply_row_bytes = 16 * 3 * 224 * 224 * 4, 8 * 1024
    assert SharedMessages(mapped, reply_row_bytes).part_bytes >= images_bytes
    places = [mapped.allocate(images_bytes + 16 * reply_row_bytes) for _ in range(2)]
    mapped.close()
    assert None not in places


@pytest.mark.parametrize("reply_row_bytes", [0, 8, 8 * 1024, 1 << 20])
def test_the_results_of_a_part_fit_beside_its_inputs(reply_row_bytes: int) -> None:
    """However wide they are: a part that does not fit would go over the network."""
    descriptor = sealed(24 << 20)
    mapped = MappedSegment(descriptor, 24 << 20)
    os.close(descriptor)
    messages = SharedMessages(mapped, reply_row_bytes)
    assert mapped.has_room(messages.part_bytes + messages.part_rows * reply_row_bytes)
    mapped.close()


def test_places_do_not_overlap_and_are_used_again(segment: MappedSegment) -> None:
    """The first gap that is large enough is taken; each place is aligned."""
    first, second, third = (segment.allocate(size) for size in (100, 1000, 64))
    assert (first, second, third) == (0, 128, 1152)
    segment.free(128)
    assert [segment.allocate(size) for size in (2000, 1, 900)] == [1216, 128, 192]


def test_a_full_segment_has_no_place(segment: MappedSegment) -> None:
    """There is room again once a place is released."""
    assert segment.allocate(SIZE) == 0
    assert (segment.has_room(1), segment.allocate(1)) == (False, None)
    segment.free(0)
    assert (segment.has_room(SIZE), segment.has_room(SIZE + 1)) == (True, False)


def test_parts_are_written_one_behind_the_other(segment: MappedSegment) -> None:
    """The server reads them as one tensor."""
    segment.write(64, [np.array([1, 2], np.float32).tobytes(), np.array([3], np.float32).tobytes()])
    tensor = segment.tensor(SharedTensor(dtype=DATA_TYPE_FLOAT32, shape=[3, 1], offset=64))
    np.testing.assert_array_equal(tensor, [[1], [2], [3]])


@pytest.mark.parametrize(
    ("offset", "shape"), [(SIZE, (1,)), (0, (1025,)), (2**63, (1,)), (0, (2**40, 2**20)), (SIZE - 64, (17,))]
)
def test_a_result_outside_the_segment_is_refused(segment: MappedSegment, offset: int, shape: tuple[int, ...]) -> None:
    """A server's fault must not end this process."""
    with pytest.raises(ValueError, match="not inside a segment"):
        segment.tensor(SharedTensor(dtype=DATA_TYPE_FLOAT32, shape=shape, offset=offset))


def test_a_result_of_a_negative_shape_is_refused(segment: MappedSegment) -> None:
    """Shapes in shared memory are checked as those in messages are."""
    with pytest.raises(InvalidInputError, match="no dimension may be negative"):
        segment.tensor(SharedTensor(dtype=DATA_TYPE_FLOAT32, shape=[-1]))


@pytest.mark.parametrize("make", [unsealed, lambda: sealed(SIZE // 2)], ids=["unsealed", "too small"])
def test_memory_that_could_vanish_is_refused(make: Callable[[], int]) -> None:
    """Reading behind its end would end this process with SIGBUS."""
    descriptor = make()
    with pytest.raises(OSError, match="can shrink, or has less than"):
        MappedSegment(descriptor, SIZE)
    os.close(descriptor)


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param(SharedMemory(socket="/run/other", key=b"k", size_bytes=SIZE), id="a-path"),
        pytest.param(SharedMemory(socket="midrib-../" + "0" * 29, key=b"k", size_bytes=SIZE), id="not-hexadecimal"),
        pytest.param(SharedMemory(socket="midrib-" + "0" * 32, key=bytes(65), size_bytes=SIZE), id="a-long-key"),
        pytest.param(SharedMemory(socket="midrib-" + "0" * 32, key=b"k", size_bytes=0), id="no-bytes"),
        pytest.param(SharedMemory(socket="midrib-" + "0" * 32, key=b"k", size_bytes=2**40), id="too-many-bytes"),
    ],
)
async def test_an_offer_that_no_midrib_server_makes_is_refused(offer: SharedMemory) -> None:
    """A server on another machine must not make this process talk to any socket."""
    with pytest.raises(OSError, match="offer is invalid"):
        await fetch_segment(offer)


async def test_a_socket_that_is_not_here_means_another_machine() -> None:
    """Its name is random, so no other server has it."""
    offer = SharedMemory(socket=f"midrib-{secrets.token_hex(16)}", key=b"k", size_bytes=SIZE)
    with pytest.raises(OSError, match="on another machine"):
        await fetch_segment(offer)


@pytest.fixture()
def use_up_descriptors() -> Iterator[Callable[[], None]]:
    """Lower the limit of this process so that it can open no more descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower() -> None:
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))

    yield lower
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_client_that_cannot_receive_a_descriptor_names_itself(use_up_descriptors: Callable[[], None]) -> None:
    """The server has handed its memory over, so the limit of this process is the cause."""
    offer = SharedMemory(socket=f"midrib-{secrets.token_hex(16)}", key=b"k", size_bytes=SIZE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{offer.socket}")
        listening.listen()
        fetching = asyncio.ensure_future(fetch_segment(offer))
        await asyncio.sleep(0)
        connection, _ = listening.accept()
        with connection:
            socket.send_fds(connection, [b"\0"], [descriptor := sealed()])
            os.close(descriptor)
            use_up_descriptors()
            with pytest.raises(OSError, match="this process has no file descriptor left"):
                await fetching


async def test_a_client_that_cannot_open_a_socket_names_itself(use_up_descriptors: Callable[[], None]) -> None:
    """A socket is its first descriptor."""
    use_up_descriptors()
    with pytest.raises(OSError, match="this process has no file descriptor left"):
        await fetch_segment(SharedMemory(socket=f"midrib-{secrets.token_hex(16)}", key=b"k", size_bytes=SIZE))


async def test_a_socket_to_which_too_many_connect_is_on_this_machine() -> None:
    """Its queue is full; the message does not speak of another machine."""
    offer = SharedMemory(socket=f"midrib-{secrets.token_hex(16)}", key=b"k", size_bytes=SIZE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, contextlib.ExitStack() as waiting:
        listening.bind(f"\0{offer.socket}")
        listening.listen(0)
        waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)).connect(f"\0{offer.socket}")
        with pytest.raises(OSError, match="too many other clients"):
            await fetch_segment(offer)


async def test_a_server_that_hands_over_nothing_has_no_memory_left() -> None:
    """A server without memory closes the connection in place of sending a descriptor."""
    offer = SharedMemory(socket=f"midrib-{secrets.token_hex(16)}", key=b"k", size_bytes=SIZE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{offer.socket}")
        listening.listen()
        listening.settimeout(10)
        fetching = asyncio.ensure_future(fetch_segment(offer))
        await asyncio.sleep(0)
        connection, _ = listening.accept()
        connection.close()
        with pytest.raises(OSError, match="no memory left"):
            await fetching
