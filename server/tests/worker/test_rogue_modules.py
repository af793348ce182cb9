"""Modules and loaders that change signals, limits, groups, descriptors, libraries or builtins of their process."""

from __future__ import annotations

import importlib
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
TRIGGER = 666.0

HARMLESS = [
    *("SIGPIPE", "SIGCHLD ignored", "profiling signal", "its name", "not dumpable", "death signal", "no subreaper"),
    *("another group", "nice", "idle", "one core", "RLIMIT_FSIZE", "RLIMIT_STACK", "RLIMIT_NPROC", "deleted folder"),
    *("umask", "root folder", "user", "environment", "import path", "pickle", "json", "os.write", "socket.send"),
    *("monotonic", "Thread", "print", "Exception", "os._exit", "os.getpid", "no logging", "logging", "no streams"),
    *("closed streams", "excepthook", "switch interval", "no collector", "busy collector", "no faulthandler"),
    *("atexit", "fork hook", "spinning thread", "many threads", "many children", "float16", "anomaly"),
    *("flush denormal", "start method", "locale", "warnings", "locked files", "torch.empty"),
]
ENDING = ["SIGTERM", "SIGHUP", "SIGABRT", "shut sockets", "overwritten files", "modules", "len", "function mode"]
BREAKING = [
    "RLIMIT_AS",
    "numpy.empty",
    "os._exit, numpy.empty",
    "struct",
    "from_numpy",
    "parent killed",
    "unblocked sockets",
]
OF_LOADERS = [
    *("SIGPIPE", "its name", "not dumpable", "another group", "idle", "RLIMIT_STACK", "deleted folder", "environment"),
    *("os.write", "os._exit", "no logging", "logging", "no streams", "no collector", "atexit", "spinning thread"),
    *("many threads", "many children", "float16", "warnings", "locked files", "excepthook"),
]


@pytest.fixture()
def rogue_of(replica_of: ReplicaOf, misbehaving: Registry) -> ReplicaOf:  # its folder can be imported
    """Start a replica of a backbone of rogue.py."""
    registry: Registry = importlib.import_module("rogue").REGISTRY
    return partial(replica_of, registry=registry, max_batch_s=60.0, max_load_s=60.0)


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def first_values(results: list[Array | Exception]) -> list[float | str]:
    return [float(result[0, 0]) if isinstance(result, np.ndarray) else type(result).__name__ for result in results]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def later_values(replica: Any) -> list[float | str]:
    """The results of batches of a known shape and of other ones."""
    return [value for count in (1000, 1, 3) for value in first_values(replica.run(rows(3, count)))]


@pytest.mark.parametrize("misdeed", HARMLESS)
def test_some_changes_of_the_process_have_no_effect_on_the_answers(rogue_of: ReplicaOf, misdeed: str) -> None:
    """The same worker answers, and it ends when it is closed."""
    replica = rogue_of("rogue", {"misdeed": misdeed})
    pid = replica.pid
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, 2 * TRIGGER, 4]
    assert (later_values(replica), replica.restarts) == ([6, 6, 6], 0)
    replica.close()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("misdeed", ENDING)
def test_an_item_that_ends_its_worker_is_refused(rogue_of: ReplicaOf, misdeed: str) -> None:
    """Without waiting for the time limit; the items beside it get their rows."""
    replica = rogue_of("rogue", {"misdeed": misdeed})
    assert first_values(replica.run(rows(1), rows(TRIGGER), rows(2))) == [2, "InternalError", 4]
    assert later_values(replica) == [6, 6, 6]


@pytest.mark.parametrize("misdeed", BREAKING)
def test_a_process_that_its_module_has_broken_is_replaced(rogue_of: ReplicaOf, misdeed: str) -> None:
    """Its connection, or a function that it needs for a batch of another shape, fails: no item is the reason."""
    replica = rogue_of("rogue", {"misdeed": misdeed})
    replica.run(rows(TRIGGER))
    assert later_values(replica) == [6, 6, 6]


def test_a_worker_that_dies_ends_no_other_one(rogue_of: ReplicaOf) -> None:
    """Its module has replaced `os._exit`, so that it could continue as a process that forks workers."""
    other = rogue_of("rogue", {"misdeed": "nice"})
    pid = other.pid
    replica = rogue_of("rogue", {"misdeed": "os._exit, numpy.empty"})
    replica.run(rows(TRIGGER))
    assert later_values(replica) == [6, 6, 6]
    assert (first_values(other.run(rows(1))), other.pid) == ([2], pid)


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "interpreter"])
def test_a_worker_that_joins_another_group_ends_only_itself(
    rogue_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    """The group is that of its parent: of the process that forks workers, or of the server."""
    monkeypatch.setattr(launcher, "CAN_FORK", forks)
    replica = rogue_of("rogue", {"misdeed": "another group, closed"})
    before = parent(replica.pid)
    assert first_values(replica.run(rows(TRIGGER))) == ["InternalError"]
    assert first_values(replica.run(rows(1))) == [2]
    assert parent(replica.pid) == before


@pytest.mark.parametrize("misdeed", OF_LOADERS)
def test_some_changes_of_the_process_by_a_loader_have_no_effect(rogue_of: ReplicaOf, misdeed: str) -> None:
    """The backbone is served."""
    assert later_values(rogue_of("rogue-loader", {"misdeed": misdeed})) == [6, 6, 6]


@pytest.mark.parametrize(
    "misdeed",
    ["SIGINT", "SIGABRT", "another session", "RLIMIT_AS", "modules", "isinstance", "from_numpy", "many files"],
)
def test_other_changes_by_a_loader_fail_its_load_only(rogue_of: ReplicaOf, misdeed: str) -> None:
    """With an error, and without waiting for the time limit; another backbone is loaded then."""
    with pytest.raises(
        (WorkerDiedError, OSError, RuntimeError),
        match="exited|killed|replaced|not permitted|allocate memory|open files",
    ):
        rogue_of("rogue-loader", {"misdeed": misdeed})
    assert later_values(rogue_of("rogue", {"misdeed": "nice"})) == [6, 6, 6]
