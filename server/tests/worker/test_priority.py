"""Workers load at low priority, so that those that serve need not wait for a core."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._worker import priority
from midrib.server._worker.launch import forking
from midrib.server._worker.process import WorkerProcess, WorkerSpec

ReplicaOf = Callable[..., Any]
TRIGGER = 666.0
ROW = (np.ones((1, 2), np.float32),)
# As a user without the right to raise a priority: a thread that lowers its own keeps it.
_UNPRIVILEGED = """
import os, resource
from midrib.server._worker.priority import can_lower
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
os.setgroups([])
os.setuid(65534)
print(can_lower(), os.sched_getscheduler(0) == os.SCHED_OTHER)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a process without privileges keeps its priority")


@pytest.fixture()
def prioritised_of(replica_of: ReplicaOf, misbehaving: Registry) -> ReplicaOf:  # - its folder can be imported
    """Start a replica of a backbone of prioritised.py."""
    registry: Registry = importlib.import_module("prioritised").REGISTRY
    return partial(replica_of, registry=registry)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("name", ["policies", "unprivileged"])
def test_a_worker_loads_at_low_priority_and_serves_at_normal_priority(
    prioritised_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also the threads and processes that the loader has started, and if it has given up its privileges."""
    monkeypatch.setattr(priority, "MAX_LOW_S", 600.0)
    (policies,) = prioritised_of(name).run((np.full((1, 2), TRIGGER, np.float32),))
    assert policies.tolist() == [[os.SCHED_IDLE, os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_OTHER]]


def test_a_worker_is_of_the_session_of_the_server(prioritised_of: ReplicaOf) -> None:
    """Linux divides the processor time among sessions first: in another one, low priority would have no effect."""
    assert os.getsid(prioritised_of("policies").pid) == os.getsid(0)


@pytest.mark.usefixtures("prioritised_of")
def test_a_worker_is_forked_at_low_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork takes the kernel some milliseconds. The process that forks has normal priority before and after it."""
    monkeypatch.setattr(forking, "_MAX_LOW_S", 600.0)
    spec = WorkerSpec("test", "prioritised:report", {})
    worker = WorkerProcess(spec, [])
    policies = worker.call(spec.request).values()
    assert (*policies, os.sched_getscheduler(parent(worker.pid))) == (os.SCHED_IDLE, os.SCHED_IDLE, os.SCHED_OTHER)
    worker.kill()


def test_a_fork_that_other_work_holds_up_goes_on_at_normal_priority(
    prioritised_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load of the forked worker begins at low priority nevertheless."""
    forker = parent(prioritised_of("policies").pid)
    policies: list[int] = []

    def raise_and_continue(pid: int) -> None:
        priority.raise_thread(pid)
        policies.append(os.sched_getscheduler(pid))
        os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(forking, "raise_thread", raise_and_continue)
    os.sched_setscheduler(forker, os.SCHED_IDLE, os.sched_param(0))
    os.kill(forker, signal.SIGSTOP)
    (at_load,) = prioritised_of("policies").run((np.full((1, 2), TRIGGER, np.float32),))
    assert policies[0] == os.SCHED_OTHER
    assert at_load[0].tolist() == [os.SCHED_IDLE, os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_OTHER]


@pytest.mark.parametrize("name", ["patient", "locking", "late"])
def test_a_load_that_takes_long_continues_at_normal_priority(prioritised_of: ReplicaOf, name: str) -> None:
    """On a machine without a free core it would hardly advance. A call may keep Python's lock all the time."""
    (row,) = prioritised_of(name, max_load_s=60.0).run(ROW)
    assert row.tolist() == [[1.0, 1.0]]


def test_a_process_that_cannot_return_keeps_its_priority() -> None:
    """Otherwise it would serve at low priority."""
    process = subprocess.run(
        [sys.executable, "-c", _UNPRIVILEGED], capture_output=True, text=True, check=True
    )  # - our own
    assert process.stdout == "False True\n"


def test_a_system_that_does_not_list_the_children_of_threads_lists_all_threads(tmp_path: Path) -> None:
    """All of them get normal priority: so do the others if one ends while they are listed."""
    for task in ("7", "8", "9"):
        (tmp_path / "7" / "task" / task).mkdir(parents=True)
    (tmp_path / "7" / "task" / "8" / "children").write_text("17")
    (tmp_path / "17" / "task" / "17").mkdir(parents=True)
    assert sorted(priority._tasks(7, tmp_path)) == [7, 8, 9, 17]
