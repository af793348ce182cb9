"""Faults of real worker processes: stopped, killed at a bad moment, out of memory, forking. docs/robustness.md has a
line for each.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.remote import Client
from midrib.server._engine.compute import Arrays
from midrib.server._engine.description import State
from midrib.server.testing import RunningServer
from midrib.wire import Array

Serve = Callable[..., AbstractContextManager[RunningServer]]
ReplicaOf = Callable[..., Any]
Kill = Callable[[int], None]
TRIGGER = 666.0


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def first_values(results: list[Array | Exception]) -> list[float | str]:
    return [float(result[0, 0]) if isinstance(result, np.ndarray) else type(result).__name__ for result in results]


def descendants(pid: int) -> set[int]:
    """The processes of a worker's group but the worker."""
    stats = [(int(path.name), path / "stat") for path in Path("/proc").iterdir() if path.name.isdecimal()]
    groups = {number: group(stat) for number, stat in stats}
    return {number for number, leader in groups.items() if leader == pid} - {pid}


def group(stat: Path) -> int:
    """The process group of a process; 0 if it has ended since it was listed, or is not reaped yet."""
    try:
        state, _, leader, *_ = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(leader)


def test_a_stopped_worker_is_replaced_after_its_time_limit(replica_of: ReplicaOf) -> None:
    """SIGSTOP: it neither computes nor ends."""
    replica = replica_of("doubling", max_batch_s=1.0)
    os.kill(replica.pid, signal.SIGSTOP)
    assert first_values(replica.run(rows(1), rows(2))) == [2, 4]
    assert replica.restarts == 1


def test_an_item_that_needs_too_much_memory_fails_alone(replica_of: ReplicaOf) -> None:
    """RLIMIT_AS: torch cannot allocate, the worker continues."""
    replica = replica_of("doubling", {"fault": "starves"})
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "BatchFailedError", 4]
    assert replica.restarts == 0


def test_processes_that_a_module_forked_end_with_the_worker(replica_of: ReplicaOf, kill: Kill) -> None:
    """A child holds the worker's end of the channel open: the worker's death is found out all the same."""
    replica = replica_of("doubling", {"fault": "forks"})
    assert first_values(replica.run(rows(TRIGGER))) == [2 * TRIGGER]
    pid = replica.pid
    assert len(descendants(pid)) == 1
    kill(pid)
    assert first_values(replica.run(rows(1))) == [2]
    assert descendants(pid) == set()


def test_a_worker_that_dies_while_it_replies_loses_nothing(replica_of: ReplicaOf) -> None:
    """Half a reply arrives: the item that ends workers is refused, the ones beside it get their rows."""
    replica = replica_of("doubling", {"fault": "dies-replying"})
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "InternalError", 4]


def test_a_worker_killed_while_a_batch_is_staged_loses_nothing(replica_of: ReplicaOf, kill: Kill) -> None:
    """Two batches: a large one is still being copied into shared memory, a small one has been sent."""
    replica = replica_of("doubling", max_batch_rows=2**18)
    batches = [[rows(1, 2**18)], [rows(2), rows(3)]]
    results = replica.run_batches(batches, meanwhile=partial(kill, replica.pid))
    assert [first_values(each) for each in results] == [[2], [4, 6]]
    assert replica.restarts == 1


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_killed_while_its_successor_loads_is_replaced_again(
    replica_of: ReplicaOf, kill: Kill, tmp_path: Path, deaths: int
) -> None:
    """With a longer pause each time."""
    replica = replica_of("dying-loader", {"folder": str(tmp_path), "deaths": deaths})
    kill(replica.pid)
    assert first_values(replica.run(rows(1))) == [1]
    assert replica.restarts == deaths + 1


def test_a_backbone_whose_workers_die_at_every_start_is_failed_with_a_reason(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The state has the reason, the log has the last lines of the process."""
    failed = threading.Event()
    requested = {"name": "dying-loader", "arguments": {"folder": str(tmp_path), "deaths": 100}}
    with serve(requested) as running, caplog.at_level(logging.WARNING, "midrib.server._worker"):
        entry = running.server.catalogue.entry("dying-loader")
        loaded = entry.ready()
        running.server.catalogue._on_change = lambda _: failed.set()  # what the health service hears
        os.kill(loaded.worker_states()[0].pid, signal.SIGKILL)
        assert failed.wait(120)
        assert entry.state is State.FAILED
        assert "its replicas were lost and could not be replaced" in entry.error
    assert "load 1 is killed" in caplog.text


def test_shared_buffers_take_nothing_of_dev_shm(replica_of: ReplicaOf) -> None:
    """A container gives /dev/shm 64 MiB: a batch of 80 MiB passes, because the memory is anonymous."""
    replica = replica_of("doubling", max_batch_rows=2**24, max_batch_elements=2**25)
    assert first_values(replica.run(rows(1, 10 * 2**20))) == [2]
    mapped = Path(f"/proc/{replica.pid}/maps").read_text()
    assert "/dev/shm" not in mapped  # it is not used
    assert "memfd:midrib-batch" in mapped


def test_our_client_loses_nothing_while_workers_are_killed(serve: Serve) -> None:
    """Ten thousand items over two replicas, one of which is killed every two seconds: 0 lost, 0 wrong, 0 doubled."""
    done = threading.Event()

    def items() -> Iterator[Array]:
        for number in range(10_000):
            yield rows(number)[0]

    def kill_by_turns(running: RunningServer) -> None:
        states = running.server.catalogue.entry("slow").ready().worker_states
        while not done.wait(2.0):
            for worker in [state for state in states() if state.running][:1]:
                os.kill(worker.pid, signal.SIGKILL)

    with serve("slow", replicas=2, max_batch_rows=16) as running, Client(running.address, timeout=120) as client:
        killing = threading.Thread(target=kill_by_turns, args=(running,))
        killing.start()
        values = [float(result[0, 0]) for result in client.embed_stream("slow", items())]
        done.set()
        killing.join()
        restarts = running.server.catalogue.entry("slow").ready().served.worker_restarts()
    assert values == [2.0 * number for number in range(10_000)]
    assert restarts >= 1


def test_loads_and_unloads_keep_processes_and_descriptors_flat(serve: Serve) -> None:
    """Each ends its worker; benchmarks/soak/load_cycles.py does a thousand, and watches the memory."""
    with serve(admin=True) as running, Client(running.address, timeout=120) as client:
        client.load("doubling")
        client.unload("doubling")
        before = open_descriptors()  # of the first client, some close later
        for _ in range(3):
            client.load("doubling")
            client.unload("doubling")
        assert open_descriptors() <= before
        assert client.list() == []


def test_an_unload_gives_the_shared_memory_back_at_once(serve: Serve) -> None:
    """Weights and batches are freed without waiting for the garbage collector."""
    gc.collect()
    gc.disable()
    before = shared_files()
    try:
        with serve("doubling", replicas=2, admin=True) as running, Client(running.address, timeout=120) as client:
            assert shared_files() >= before + 4
            client.unload("doubling")
            assert shared_files() == before
    finally:
        gc.enable()


def shared_files() -> int:
    """The number of anonymous files of memory that this process has open."""
    return sum("memfd:midrib" in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
