"""Modules that misuse their process: the server continues, and other items get their rows."""

from __future__ import annotations

import importlib
import os
import select
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._engine.compute import Arrays
from midrib.server._worker.launch import launcher
from midrib.server._worker.process import WorkerDiedError
from midrib.wire import Array

ReplicaOf = Callable[..., Any]
Kill = Callable[[int], None]
TRIGGER = 666.0


@pytest.fixture()
def hostile_of(replica_of: ReplicaOf, misbehaving: Registry) -> ReplicaOf:  # its folder can be imported
    """Start a replica of a backbone of hostile.py."""
    registry: Registry = importlib.import_module("hostile").REGISTRY
    return partial(replica_of, registry=registry)


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def first_values(results: list[Array | Exception]) -> list[float | str]:
    return [float(result[0, 0]) if isinstance(result, np.ndarray) else type(result).__name__ for result in results]


def shared_memory(pid: int) -> list[Path]:
    """Return the memory that a worker shares with the server, as files."""
    files = [path for path in Path(f"/proc/{pid}/fd").iterdir() if "midrib-batch" in str(path.readlink())]
    assert files
    return files


@pytest.mark.parametrize(
    "misuse", ["closes-output", "ignores-signals", "prints-binary", "recurses-little", "grows-files"]
)
def test_some_misuse_has_no_effect_on_the_answers(hostile_of: ReplicaOf, misuse: str) -> None:
    """The rows of that item are right, and so are those of later ones; a worker that ignores signals still ends."""
    replica = hostile_of("hostile", {"misuse": misuse})
    pid = replica.pid
    assert first_values(replica.run(rows(1), rows(TRIGGER))) == [2, 2 * TRIGGER]
    assert first_values(replica.run(rows(3, 1000))) == [6]
    replica.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("misuse", ["closes-files", "writes-into-sockets", "becomes-another-program"])
def test_an_item_that_spoils_the_connection_is_refused_at_once(hostile_of: ReplicaOf, misuse: str) -> None:
    """The worker is replaced without waiting for its time limit, and the items beside it get their rows."""
    replica = hostile_of("hostile", {"misuse": misuse}, max_batch_s=600.0)
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "InternalError", 4]


def test_a_fork_that_leaves_the_module_sends_no_reply(hostile_of: ReplicaOf) -> None:
    """Otherwise the server would get two replies to one batch."""
    replica = hostile_of("hostile", {"misuse": "forks"})
    pid = replica.pid
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, 2 * TRIGGER, 4]
    assert first_values(replica.run(rows(3))) == [6]
    assert (replica.pid, replica.restarts) == (pid, 0)


def test_a_fork_that_leaves_the_module_later_does_not_write_over_a_later_batch(
    hostile_of: ReplicaOf, tmp_path: Path
) -> None:
    """Its rows would go to the place that this batch has in the shared memory by then."""
    pid = tmp_path / "pid"
    replica = hostile_of("late-fork", {"file": str(pid)})
    assert first_values(replica.run(rows(TRIGGER))) == [2 * TRIGGER]
    forked = os.pidfd_open(int(pid.read_text()))
    later = np.full(64, 3.0, np.float32).tobytes()
    shared = shared_memory(replica.pid)
    for memory in shared:
        with memory.open("r+b") as file:  # it cannot be cut off first
            file.write(later)
    pid.unlink()
    select.select([forked], [], [])  # readable once it has ended
    os.close(forked)
    assert [memory.read_bytes()[: len(later)] for memory in shared] == [later] * len(shared)
    assert first_values(replica.run(rows(3))) == [6]


@pytest.mark.parametrize("misuse", ["forks", "prints-much"])
def test_some_misuse_by_a_loader_has_no_effect(hostile_of: ReplicaOf, misuse: str) -> None:
    """A fork that leaves the loader sends no reply, and 10 MB of output are read in less than the limit."""
    replica = hostile_of("hostile-loader", {"misuse": misuse}, max_load_s=40.0)
    assert first_values(replica.run(rows(1), rows(2))) == [2, 4]


def test_a_loader_that_writes_into_the_connection_is_ended_at_once(hostile_of: ReplicaOf) -> None:
    """Its bytes announce a message of gigabytes, for which the server does not wait."""
    with pytest.raises(WorkerDiedError, match="sent a damaged message"):
        hostile_of("hostile-loader", {"misuse": "writes-into-sockets"}, max_load_s=600.0)


def test_an_error_of_megabytes_is_shortened(hostile_of: ReplicaOf, caplog: pytest.LogCaptureFixture) -> None:
    """Both the error that the server raises and the lines of the log."""
    with pytest.raises(RuntimeError, match="LongError: xxx") as caught:
        hostile_of("hostile-loader", {"misuse": "fails-at-length"})
    assert len(str(caught.value)) < 10_000
    assert len(caplog.text) < 100_000


def test_shared_memory_cannot_be_shrunk(hostile_of: ReplicaOf) -> None:
    """Otherwise the server would end with SIGBUS at its next access."""
    replica = hostile_of("hostile", {"misuse": "shrinks-files"})
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "BatchFailedError", 4]
    assert replica.restarts == 0


def test_a_signal_handler_that_raises_between_the_passes_costs_the_worker_its_life(hostile_of: ReplicaOf) -> None:
    """Its successor computes the items that it had."""
    replica = hostile_of("hostile", {"misuse": "raises-from-signals"})
    worker = os.pidfd_open(replica.pid)
    replica.run(rows(TRIGGER))
    select.select([worker], [], [])  # readable once it has ended
    os.close(worker)
    assert first_values(replica.run(rows(1), rows(2))) == [2, 4]


def test_a_process_that_fails_every_pass_is_replaced(hostile_of: ReplicaOf) -> None:
    """An example fails too, so the fault is not in the items: only the one that causes it is refused."""
    replica = hostile_of("breaking")
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "InternalError", 4]
    assert first_values(replica.run(rows(3))) == [6]


def test_a_process_that_cannot_map_a_larger_batch_is_replaced(hostile_of: ReplicaOf) -> None:
    """Without descriptors the worker could compute small batches only."""
    replica = hostile_of("hostile", {"misuse": "opens-nothing-more"})
    assert first_values(replica.run(rows(TRIGGER))) == [2 * TRIGGER]
    assert first_values(replica.run(rows(1, 10_000))) == [2]
    assert replica.restarts == 1


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "interpreter"])
def test_a_daemon_ends_with_the_worker_that_left_it(
    hostile_of: ReplicaOf, kill: Kill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    """It is in another session, and its parent has ended; it would keep the worker's memory and output open."""
    monkeypatch.setattr(launcher, "CAN_FORK", forks)
    replica = hostile_of("daemon", {"file": str(tmp_path / "pid")})
    assert first_values(replica.run(rows(TRIGGER))) == [2 * TRIGGER]
    daemon = os.pidfd_open(int((tmp_path / "pid").read_text()))
    kill(replica.pid)
    assert first_values(replica.run(rows(1))) == [2]
    ended, _, _ = select.select([daemon], [], [], 20)
    assert ended == [daemon]
    os.close(daemon)
