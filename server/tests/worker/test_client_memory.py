"""Items in a client's memory: the worker maps it, computes there, and unmaps it when the client has gone."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.server._shared_memory.segment import SealedSegment
from midrib.server._worker.channel import Channel
from midrib.wire import Array

ReplicaOf = Callable[..., Any]
SIZE = 2 << 20
SHAPE = (SIZE // 8, 2)


def client_rows(value: float, shape: tuple[int, int] = SHAPE, dtype: type = np.float32) -> Array:
    """Return rows in the memory of a new client."""
    rows: Array = np.ndarray(shape, dtype, SealedSegment(SIZE).memory)
    rows[:] = value
    return rows


def mapped(pid: int) -> int:
    """Return the number of clients' memories that a worker maps."""
    return Path(f"/proc/{pid}/maps").read_text().count("midrib-stream")


def client_descriptors(pid: int) -> int:
    """Return the number of descriptors of clients' memories that a process has."""
    return sum("midrib-stream" in str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir())


def test_an_item_is_read_where_the_client_wrote_it(replica_of: ReplicaOf) -> None:
    """The worker maps the memory once, for all items in it."""
    replica, rows = replica_of("doubling"), client_rows(1)
    first, second = replica.run((rows,))[0], replica.run((rows[: SHAPE[0] // 2],))[0]
    assert (np.unique(first).tolist(), np.unique(second).tolist(), len(second)) == ([2], [2], SHAPE[0] // 2)
    assert mapped(replica.pid) == 1


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([client_rows(1), client_rows(1)], id="two-items"),
        pytest.param([client_rows(1, (8, 2))], id="few-bytes"),
        pytest.param([client_rows(1, (SIZE // 16, 2), np.float64)], id="another-dtype"),
        pytest.param([client_rows(1)[::2]], id="with-gaps"),
        pytest.param([np.ones(SHAPE, np.float32)], id="memory-of-the-server"),
    ],
)
def test_other_batches_are_copied(replica_of: ReplicaOf, items: list[Array]) -> None:
    """They lie in the worker's staging buffers, or cost less to copy."""
    replica = replica_of("doubling")
    results = replica.run(*((rows,) for rows in items))
    assert [np.unique(rows).tolist() for rows in results] == [[2]] * len(items)
    assert mapped(replica.pid) == 0


def test_the_worker_unmaps_the_memory_of_clients_that_have_gone(replica_of: ReplicaOf) -> None:
    """Many clients leave neither memory nor descriptors behind."""
    replica = replica_of("doubling")
    pid = replica.pid
    for value in range(40):
        (rows,) = replica.run((client_rows(value),))
        assert np.unique(rows).tolist() == [2 * value]
    del rows
    replica.wait_for(lambda: mapped(pid) == 0)
    assert client_descriptors(pid) == 0


def test_hundreds_of_clients_that_go_during_a_batch_do_not_end_the_worker(replica_of: ReplicaOf) -> None:
    """Its channel holds fewer messages than that."""
    replica, clients = replica_of("doubling"), [client_rows(1, (1 << 17, 2)) for _ in range(400)]
    for rows in clients:
        replica.run((rows,))
    pid = replica.pid
    os.kill(pid, signal.SIGSTOP)
    clients.clear()
    del rows
    (last,) = replica.run((client_rows(3),), meanwhile=lambda: os.kill(pid, signal.SIGCONT))
    replica.wait_for(lambda: mapped(pid) <= 1)
    assert (np.unique(last).tolist(), replica.restarts) == ([6], 0)


def test_the_successor_of_a_dead_worker_maps_the_memory_too(replica_of: ReplicaOf, kill: Callable[[int], None]) -> None:
    """The item is computed again from the client's memory."""
    replica, rows = replica_of("doubling"), client_rows(3)
    replica.run((rows,))
    pid = replica.pid
    os.kill(pid, signal.SIGSTOP)  # so that it is killed with the item
    (again,) = replica.run((rows,), meanwhile=lambda: kill(pid))
    assert (np.unique(again).tolist(), mapped(replica.pid)) == ([6], 1)


def test_an_item_that_fails_in_the_clients_memory_fails_alone(replica_of: ReplicaOf) -> None:
    """The worker continues."""
    replica, rows = replica_of("doubling", {"fault": "fails"}), client_rows(666)
    (error,) = replica.run((rows,))
    rows[:] = 1
    assert isinstance(error, Exception)
    assert np.unique(replica.run((rows,))[0]).tolist() == [2]


def test_a_worker_without_a_free_descriptor_fails_only_the_items_of_that_memory(replica_of: ReplicaOf) -> None:
    """It continues, and maps the memory of the next client."""
    replica = replica_of("doubling")
    pid = replica.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    (error,) = replica.run((client_rows(1),))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    (rows,) = replica.run((client_rows(2),))
    assert (type(error).__name__, np.unique(rows).tolist(), replica.restarts) == ("BatchFailedError", [4], 0)


@pytest.fixture()
def limit_files() -> Iterator[Callable[[int], None]]:
    """Set the largest size of a file of this process, also of one in memory, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_item_without_memory_for_its_rows_fails_alone(
    replica_of: ReplicaOf, limit_files: Callable[[int], None]
) -> None:
    """Its buffer is free for the next one."""
    replica, rows = replica_of("doubling"), client_rows(1)
    limit_files(SIZE // 2)
    errors = [replica.run((rows,))[0] for _ in range(4)]
    limit_files(1 << 40)
    (again,) = replica.run((rows,))
    assert ({type(error).__name__ for error in errors}, np.unique(again).tolist()) == ({"OSError"}, [2])


@pytest.fixture()
def channels() -> Iterator[tuple[Channel, Channel]]:
    """The end of a server and that of its worker, which takes descriptors."""
    ends = socket.socketpair()
    yield Channel(ends[0]), Channel(ends[1], takes_descriptors=True)
    for end in ends:
        end.close()


def test_a_descriptor_comes_with_its_message(channels: tuple[Channel, Channel]) -> None:
    """It comes between other messages too, and with a message of many bytes."""
    server, worker = channels
    readable, writable = os.pipe()
    server.send(b"before")
    server.send_with_descriptor(b"with", readable)
    server.send_with_descriptor(bytes(100_000), writable)
    messages = [worker.receive(10) for _ in range(3)]
    assert [len(message) for message in messages] == [6, 4, 100_000]
    assert len(worker.descriptors) == 2
    os.write(worker.descriptors[1], b"x")
    assert os.read(worker.descriptors[0], 1) == b"x"
    for descriptor in (readable, writable, *worker.descriptors):
        os.close(descriptor)


def test_descriptors_of_a_damaged_worker_are_not_taken(channels: tuple[Channel, Channel]) -> None:
    """The server's process keeps none."""
    server, worker = channels
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        worker.send_with_descriptor(b"flood", 0)
    assert [server.receive(10) for _ in range(100)] == [b"flood"] * 100
    assert (len(os.listdir("/proc/self/fd")), len(server.descriptors)) == (before, 0)
