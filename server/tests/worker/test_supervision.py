"""Workers that die, hang or print without end: real processes, one batch with a row that makes them misbehave."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.server._engine.compute import Arrays
from midrib.server._worker.process import WorkerDiedError
from midrib.server._worker.staging import BatchFailedError
from midrib.wire import Array, InternalError, UnavailableError

ReplicaOf = Callable[..., Any]
Kill = Callable[[int], None]
TRIGGER = 666.0


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def shown(results: list[Array | Exception]) -> list[str]:
    return [str(result.tolist()) if isinstance(result, np.ndarray) else type(result).__name__ for result in results]


@pytest.mark.parametrize("fault", ["exits", "crashes", "killed"])
def test_an_item_that_ends_the_worker_is_refused_and_the_others_get_their_rows(
    replica_of: ReplicaOf, fault: str
) -> None:
    """os._exit, a segmentation fault, SIGKILL: the items beside it are computed by the worker's successor."""
    replica = replica_of("doubling", {"fault": fault})
    results = replica.run(rows(1), rows(TRIGGER), rows(2))
    assert shown(results) == ["[[2.0, 2.0]]", "InternalError", "[[4.0, 4.0]]"]
    assert shown(replica.run(rows(3))) == ["[[6.0, 6.0]]"]


def test_a_batch_beyond_its_time_limit_costs_the_worker_its_life(replica_of: ReplicaOf) -> None:
    """The item that hangs is refused after its second time limit; the others get their rows."""
    replica = replica_of("doubling", {"fault": "hangs"}, max_batch_s=0.5)
    results = replica.run(rows(1), rows(TRIGGER))
    assert shown(results) == ["[[2.0, 2.0]]", "InternalError"]


def test_a_worker_that_prints_without_end_is_held_back_and_then_ended(replica_of: ReplicaOf) -> None:
    """Its output fills a pipe, never the server's memory; it computes nothing, so its time limit ends it."""
    replica = replica_of("doubling", {"fault": "prints"}, max_batch_s=0.5)
    assert shown(replica.run(rows(TRIGGER))) == ["InternalError"]
    assert shown(replica.run(rows(1))) == ["[[2.0, 2.0]]"]


def test_an_error_of_the_module_spoils_only_its_item_and_leaves_the_worker(replica_of: ReplicaOf) -> None:
    """Its words are for the log: they name the module's error."""
    replica = replica_of("doubling")
    before = replica.pid
    results = replica.run(rows(1), rows(TRIGGER), rows(2))
    assert shown(results) == ["[[2.0, 2.0]]", "BatchFailedError", "[[4.0, 4.0]]"]
    assert "RuntimeError: secret detail of the device" in str(results[1])
    assert replica.pid == before


def test_a_module_that_calls_exit_spoils_only_its_item_and_leaves_the_worker(replica_of: ReplicaOf) -> None:
    """sys.exit is an error of the module like any other."""
    replica = replica_of("doubling", {"fault": "quits"})
    before = replica.pid
    assert shown(replica.run(rows(1), rows(TRIGGER))) == ["[[2.0, 2.0]]", "BatchFailedError"]
    assert replica.pid == before


def test_rows_of_a_wrong_width_are_an_error_of_their_item(replica_of: ReplicaOf) -> None:
    """A module that loses columns never answers with those of another caller."""
    results = replica_of("narrow").run(rows(1), rows(TRIGGER))
    assert shown(results) == ["[[1.0, 1.0]]", "BatchFailedError"]
    assert isinstance(results[1], BatchFailedError)
    assert "returned torch.float32 [1, 1], expected a floating tensor [1, 2]" in str(results[1])


def test_a_worker_killed_between_batches_is_replaced(replica_of: ReplicaOf, kill: Kill) -> None:
    """Nobody notices but by the time that the next batch takes."""
    replica = replica_of("doubling")
    kill(replica.pid)
    assert shown(replica.run(rows(1, count=100))) == [str([[2.0, 2.0]] * 100)]
    assert replica.restarts == 1


def test_a_worker_that_cannot_be_replaced_ends_the_replica(
    replica_of: ReplicaOf, kill: Kill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is not the module's: the engine takes it for the loss of the replica."""
    replica = replica_of("doubling")
    pid = replica.pid
    monkeypatch.setattr("midrib.server._worker.supervision._BACK_OFF_S", (0.0, 0.0))
    monkeypatch.setattr("midrib.server._worker.launch.launcher.CAN_FORK", False)
    ends_at_once = [sys.executable, "-c", "raise SystemExit('no more memory')"]
    monkeypatch.setattr("midrib.server._worker.launch.processes.command", lambda *_: ends_at_once)
    kill(pid)
    with pytest.raises(UnavailableError, match="the replica that ran this item was lost"):
        replica.run(rows(1))


def test_a_loader_that_ends_its_process_is_an_error_with_its_last_words(replica_of: ReplicaOf) -> None:
    """The status is for the caller, the words are for the log."""
    with pytest.raises(WorkerDiedError, match=r"the worker process of unloadable exited with status 4") as caught:
        replica_of("unloadable")
    assert caught.value.__notes__ == ["its last lines:\nthe weights are damaged"]
    assert isinstance(caught.value, InternalError)


def test_a_loader_that_hangs_is_ended_at_its_time_limit(replica_of: ReplicaOf) -> None:
    """The error names the setting, and the log has the loader's last words."""
    with pytest.raises(WorkerDiedError, match=r"did not load within 5 s \(max_load_s\)") as caught:
        replica_of("slow-loader", max_load_s=5.0)
    assert caught.value.__notes__ == ["its last lines:\nwaiting for a lock"]


def test_a_loader_that_returns_another_module_each_time_costs_the_replica(
    replica_of: ReplicaOf, kill: Kill, tmp_path: Path
) -> None:
    """Its successors would answer with another function under the same revision."""
    replica = replica_of("growing", {"folder": str(tmp_path)})
    kill(replica.pid)
    with pytest.raises(UnavailableError, match="the replica that ran this item was lost"):
        replica.run(rows(1))


def test_a_closed_worker_is_gone_with_the_threads_that_a_module_left(replica_of: ReplicaOf) -> None:
    """A thread that is not joined does not keep the process alive."""
    replica = replica_of("doubling", {"fault": "threads"})
    replica.run(rows(TRIGGER))
    pid = replica.pid
    replica.close()
    assert not Path(f"/proc/{pid}").exists()


def test_abandoning_ends_a_worker_that_computes(replica_of: ReplicaOf) -> None:
    """The batch that hangs in it is lost at once, not after its time limit."""
    replica = replica_of("doubling", {"fault": "hangs"})
    stopped = UnavailableError("the server stopped")
    with pytest.raises(UnavailableError, match="the server stopped"):
        replica.run(rows(TRIGGER), meanwhile=lambda: replica.replica.abandon(stopped))
    replica.close()
    assert replica.restarts == 0


def test_the_output_of_a_worker_is_in_the_log_without_control_characters(
    replica_of: ReplicaOf, caplog: pytest.LogCaptureFixture
) -> None:
    """One record a line: a module cannot forge a line of another."""
    with (
        caplog.at_level(logging.INFO, "midrib.server._worker.output"),
        pytest.raises(WorkerDiedError, match="status 4"),
    ):
        replica_of("unloadable")
    assert "worker unloadable: the weights are damaged" in caplog.messages


def test_batches_under_repeated_kills_are_all_right(replica_of: ReplicaOf, kill: Kill) -> None:
    """Every second batch loses its worker on the way, and every item gets its rows."""
    replica = replica_of("doubling")
    for number in range(0, 6, 2):
        assert shown(replica.run(rows(number), rows(number + 1))) == [
            str([[2.0 * number] * 2]),
            str([[2.0 * number + 2] * 2]),
        ]
        results = replica.run(rows(number), rows(number + 0.5), meanwhile=partial(kill, replica.pid))
        assert shown(results) == [str([[2.0 * number] * 2]), str([[2.0 * number + 1] * 2])]
    assert replica.pid
    assert replica.restarts == 3
