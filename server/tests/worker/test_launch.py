"""How worker processes start: as forks of a process that has imported torch, or as interpreters."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._worker.launch import launcher
from midrib.server._worker.launch.forking import Forker
from midrib.server._worker.process import WorkerDiedError, WorkerProcess, WorkerSpec
from midrib.server._worker.shared_buffer import new_shared_buffer

ReplicaOf = Callable[..., Any]
Kill = Callable[[int], None]
ROW = (np.full((1, 2), 3.0, np.float32),)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def surroundings(**request: Any) -> dict[str, Any]:
    """Return those that a new worker reports."""
    file = new_shared_buffer()
    spec = WorkerSpec("test", "misbehaving:report", request | {"file": file.descriptor}, (file.descriptor,))
    worker = WorkerProcess(spec, [new_shared_buffer()])
    try:
        reported: dict[str, Any] = worker.call(spec.request)
    finally:
        worker.kill()
    return reported


def test_a_second_worker_starts_without_importing_torch_again(replica_of: ReplicaOf) -> None:
    """An import takes more than a second of processor time; a fork with its load takes a fraction of that."""
    first, second = replica_of("doubling"), replica_of("doubling")
    used = sum(map(int, Path(f"/proc/{second.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    assert parent(first.pid) == parent(second.pid) != os.getpid()
    assert used / os.sysconf("SC_CLK_TCK") < 0.6


def test_a_worker_outlives_the_process_that_forked_it(replica_of: ReplicaOf, kill: Kill) -> None:
    """It computes on, another one starts by a new fork, and its own death is noticed."""
    replica = replica_of("doubling")
    pid, forker = replica.pid, parent(replica.pid)
    kill(forker)
    assert replica.run(ROW)[0].tolist() == [[6.0, 6.0]]
    assert replica.pid == pid
    kill(pid)
    assert replica.run(ROW)[0].tolist() == [[6.0, 6.0]]
    assert parent(replica.pid) != forker


def test_a_stopped_process_that_forks_is_replaced(replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start waits a limited time for it."""
    monkeypatch.setattr("midrib.server._worker.launch.forking._ANSWER_S", 0.5)
    forker = parent(replica_of("doubling").pid)
    os.kill(forker, signal.SIGSTOP)
    replica = replica_of("doubling")
    assert replica.run(ROW)[0].tolist() == [[6.0, 6.0]]
    assert not Path(f"/proc/{forker}").exists()


def test_a_forked_worker_has_the_surroundings_of_a_fresh_process(
    misbehaving: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment, folder and files of the server's process when it starts, and other random numbers."""
    monkeypatch.setenv("MIDRIB_TEST", "first")
    first = surroundings()
    monkeypatch.setenv("MIDRIB_TEST", "second")
    monkeypatch.chdir(tmp_path)
    second = surroundings()
    assert (first["variable"], second["variable"]) == ("first", "second")
    assert (second["folder"], second["leads_group"], second["file"]) == (str(tmp_path), True, "memfd:midrib-batch")
    assert first["random"] != second["random"]


@pytest.mark.usefixtures("misbehaving")
def test_a_worker_starts_from_any_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deleted folder, half a megabyte of variables, and entries of sys.path that are not strings."""
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    for number in range(8):
        monkeypatch.setenv(f"MIDRIB_LARGE_{number}", "x" * 2**16)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path, tmp_path])
    monkeypatch.setenv("MIDRIB_TEST", "\udcff not UTF-8")
    reported = surroundings()
    assert (reported["variable"], reported["folder"]) == ("\udcff not UTF-8", "/")
    assert reported["parent"] != os.getpid()


@pytest.mark.usefixtures("misbehaving")
def test_the_threads_of_numpy_do_not_prevent_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a variable says otherwise, its BLAS starts a thread for each core at its import."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(launcher, "_FORKERS", {})
    assert surroundings()["parent"] != os.getpid()


def test_without_forks_a_worker_is_an_interpreter(replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS; it dies and is replaced in the same way."""
    monkeypatch.setattr(launcher, "CAN_FORK", False)
    replica = replica_of("doubling", {"fault": "killed"})
    (failed,) = replica.run((np.full((1, 2), 666.0, np.float32),))
    assert type(failed).__name__ == "InternalError"
    assert replica.run(ROW)[0].tolist() == [[6.0, 6.0]]
    assert parent(replica.pid) == os.getpid()


def test_a_module_that_no_process_can_import_is_an_error_of_the_worker() -> None:
    """The process that forks ends with the error; an interpreter then shows it in its last lines."""
    worker = WorkerProcess(WorkerSpec("test", "no_such_module:entry", {}), [])
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        worker.call({})
    with pytest.raises(WorkerDiedError, match="exited with status 0"):
        worker.call({})


def test_a_process_that_still_imports_its_module_is_ended_at_once() -> None:
    """A command that fails before its first load does not wait for the import of torch."""
    forker = Forker("midrib.server._catalogue.worker_entry")
    forker.close()
    assert forker._process.returncode == -signal.SIGKILL
