"""Workers that die, hang or print without end: real processes, one batch with a row that makes them misbehave."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midrib.server._engine.compute import Arrays
from midrib.server._engine.replica import run_or_split
from midrib.server._worker.compute import WorkerCompute
from midrib.server._worker.process import BatchFailedError, WorkerDiedError
from midrib.server._worker.supervision import WorkerLostError
from midrib.wire import Array, InternalError

ComputeOf = Callable[..., WorkerCompute]
TRIGGER = 666.0


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def shown(results: list[Array | Exception]) -> list[str]:
    return [str(result.tolist()) if isinstance(result, np.ndarray) else type(result).__name__ for result in results]


@pytest.mark.parametrize("fault", ["exits", "quits", "crashes", "killed"])
def test_an_item_that_ends_the_worker_is_refused_and_the_others_get_their_rows(
    compute_of: ComputeOf, fault: str
) -> None:
    """os._exit, sys.exit, a segmentation fault, SIGKILL: the items beside it are computed by the worker's successor."""
    compute = compute_of("doubling", {"fault": fault})
    results = run_or_split(compute, [rows(1), rows(TRIGGER), rows(2)])
    assert shown(results) == ["[[2.0, 2.0]]", "InternalError", "[[4.0, 4.0]]"]
    assert shown(run_or_split(compute, [rows(3)])) == ["[[6.0, 6.0]]"]


def test_a_batch_beyond_its_time_limit_costs_the_worker_its_life(compute_of: ComputeOf) -> None:
    """The item that hangs is refused after its second time limit; the others get their rows."""
    compute = compute_of("doubling", {"fault": "hangs"}, max_batch_s=0.5)
    results = run_or_split(compute, [rows(1), rows(TRIGGER)])
    assert shown(results) == ["[[2.0, 2.0]]", "InternalError"]


def test_a_worker_that_prints_without_end_is_held_back_and_then_ended(compute_of: ComputeOf) -> None:
    """Its output fills a pipe, never the server's memory; it computes nothing, so its time limit ends it."""
    compute = compute_of("doubling", {"fault": "prints"}, max_batch_s=0.5)
    assert shown(run_or_split(compute, [rows(TRIGGER)])) == ["InternalError"]
    assert shown(run_or_split(compute, [rows(1)])) == ["[[2.0, 2.0]]"]


def test_an_error_of_the_module_spoils_only_its_item_and_leaves_the_worker(compute_of: ComputeOf) -> None:
    """Its words are for the log: they name the module's error."""
    compute = compute_of("doubling")
    before = compute.supervisor.worker().pid
    results = run_or_split(compute, [rows(1), rows(TRIGGER), rows(2)])
    assert shown(results) == ["[[2.0, 2.0]]", "BatchFailedError", "[[4.0, 4.0]]"]
    assert "RuntimeError: secret detail of the device" in str(results[1])
    assert compute.supervisor.worker().pid == before


def test_rows_of_a_wrong_width_are_an_error_of_their_item(compute_of: ComputeOf) -> None:
    """A module that loses columns never answers with somebody else's."""
    results = run_or_split(compute_of("narrow"), [rows(1), rows(TRIGGER)])
    assert shown(results) == ["[[1.0, 1.0]]", "BatchFailedError"]
    assert isinstance(results[1], BatchFailedError)
    assert "returned torch.float32 [1, 1], expected a floating tensor [1, 2]" in str(results[1])


def test_a_worker_killed_between_batches_is_replaced(compute_of: ComputeOf) -> None:
    """Nobody notices but by the time that the next batch takes."""
    compute = compute_of("doubling")
    os.kill(compute.supervisor.worker().pid, signal.SIGKILL)
    assert shown(run_or_split(compute, [rows(1, count=100)])) == [str([[2.0, 2.0]] * 100)]
    assert compute.supervisor.restarts == 1


def test_a_worker_that_cannot_be_replaced_ends_the_replica(
    compute_of: ComputeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is none of the module's: the engine takes it for the loss of the replica."""
    compute = compute_of("doubling")
    monkeypatch.setattr("midrib.server._worker.supervision._BACK_OFF_S", (0.0, 0.0))
    monkeypatch.setattr("midrib.server._worker.process._BOOTSTRAP", "raise SystemExit('no more memory')")
    os.kill(compute.supervisor.worker().pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="died and could not be replaced"):
        run_or_split(compute, [rows(1)])


def test_a_loader_that_ends_its_process_is_an_error_with_its_last_words(compute_of: ComputeOf) -> None:
    """The status is for the caller, the words are for the log."""
    with pytest.raises(WorkerDiedError, match=r"the worker process of unloadable exited with status 4") as caught:
        compute_of("unloadable")
    assert caught.value.__notes__ == ["its last lines:\nthe weights are damaged"]
    assert isinstance(caught.value, InternalError)


def test_a_closed_worker_is_gone_with_the_threads_that_a_module_left(compute_of: ComputeOf) -> None:
    """A thread that nobody joins keeps no process alive."""
    compute = compute_of("doubling", {"fault": "threads"})
    run_or_split(compute, [rows(TRIGGER)])
    pid = compute.supervisor.worker().pid
    compute.close()
    assert not Path(f"/proc/{pid}").exists()


def test_closing_ends_a_worker_that_computes(compute_of: ComputeOf) -> None:
    """The batch that hangs in it is lost at once, not after its time limit."""
    compute = compute_of("doubling", {"fault": "hangs"})
    launched = compute.stage([rows(TRIGGER)]).launch()
    closing = threading.Timer(0.2, compute.close)
    closing.start()
    with pytest.raises(WorkerLostError, match="died and could not be replaced"):
        launched.finish()
    closing.join()
    assert compute.supervisor.restarts == 0


def test_the_output_of_a_worker_is_in_the_log_without_control_characters(
    compute_of: ComputeOf, caplog: pytest.LogCaptureFixture
) -> None:
    """One record a line: a module cannot forge a line of another."""
    with (
        caplog.at_level(logging.INFO, "midrib.server._worker.output"),
        pytest.raises(WorkerDiedError, match="status 4"),
    ):
        compute_of("unloadable")
    assert "worker unloadable: the weights are damaged" in caplog.messages


def test_batches_under_repeated_kills_are_all_right(compute_of: ComputeOf) -> None:
    """Every second batch loses its worker on the way, and every row is that of its own item."""
    compute = compute_of("doubling")
    for number in range(6):
        staged = compute.stage([rows(number), rows(number + 0.5)])
        pid = compute.supervisor.worker().pid
        killer = threading.Thread(target=os.kill, args=(pid, signal.SIGKILL if number % 2 else 0))
        killer.start()
        results = staged.launch().finish()
        killer.join()
        assert shown(results) == [str([[2.0 * number] * 2]), str([[2.0 * number + 1] * 2])]
    assert compute.supervisor.restarts == 3
