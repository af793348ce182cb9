"""The pauses before a dead worker is replaced, with real workers; the test takes the place of the waiting."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from midrib.registry import Registry
from midrib.server._catalogue.processes import ReplicaWorkers, host_in_processes
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker.supervision import SharedPlan, Supervisor, WorkerLostError


@pytest.fixture()
def workers(misbehaving: Registry) -> Iterator[ReplicaWorkers]:
    """The workers of a backbone that is loaded."""
    hosted = host_in_processes(BackboneSettings(name="doubling"), Settings(warm_up_s=0.0, threads=1), misbehaving)
    yield hosted.workers[0]
    hosted.discard()


def supervised(workers: ReplicaWorkers, sleep: Callable[[float], object]) -> Supervisor:
    """Return a supervisor with its worker ready."""
    supervisor = Supervisor(workers.spec, SharedPlan(), sleep=sleep)
    supervisor.prepare()
    return supervisor


def die_until_lost(supervisor: Supervisor) -> None:
    while True:
        supervisor.worker().kill()
        supervisor.worker(was_idle=True)


def test_a_replica_whose_workers_end_at_once_is_lost_after_ten_of_them(
    workers: ReplicaWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no batch, so the module is the reason: the backbone is FAILED then."""
    monkeypatch.setattr("midrib.server._worker.supervision._SHORT_LIFE_S", 600.0)
    pauses: list[float] = []
    supervisor = supervised(workers, pauses.append)

    with pytest.raises(WorkerLostError, match="10 workers of doubling in sequence ended without a batch"):
        die_until_lost(supervisor)
    supervisor.close()
    assert len(pauses) == 9


@pytest.mark.parametrize("was_idle", [True, False], ids=["idle", "with a batch"])
def test_a_replica_starts_five_workers_at_once_and_further_ones_at_a_fixed_rate(
    workers: ReplicaWorkers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, was_idle: bool
) -> None:
    """Nobody waits in this test, so that each pause is one interval longer than the one before it."""
    monkeypatch.setattr("midrib.server._worker.supervision._START_INTERVAL_S", 10_000.0)
    pauses: list[float] = []
    supervisor = supervised(workers, pauses.append)
    for _ in range(7):
        supervisor.worker().kill()
        supervisor.worker(was_idle=was_idle)
    supervisor.close()
    assert [round(pause, -4) for pause in pauses] == [0.0] * 5 + [10_000.0, 20_000.0]
    assert caplog.text.count("its workers die too often: the next one starts in") == 2


def test_the_wait_for_a_start_ends_with_the_replica(workers: ReplicaWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unload, or the end of the server, does not wait for it."""
    monkeypatch.setattr("midrib.server._worker.supervision._START_BURST", 0)
    monkeypatch.setattr("midrib.server._worker.supervision._START_INTERVAL_S", 10_000.0)
    supervisor = Supervisor(workers.spec, SharedPlan())
    supervisor.prepare()
    supervisor.worker().kill()
    with ThreadPoolExecutor(1) as pool:
        replaced = pool.submit(supervisor.worker)
        supervisor.close()
        with pytest.raises(WorkerLostError, match="died and could not be replaced"):
            replaced.result(60)


def lowest_free_descriptor() -> int:
    """A limit of this number leaves no descriptor free."""
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


def test_a_shortage_of_descriptors_is_waited_out(workers: ReplicaWorkers) -> None:
    """Clients may use all of them for a while: the backbone must not be lost by that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    pauses: list[float] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if seconds == 10.0:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    supervisor = supervised(workers, wait)
    pid = supervisor.worker().pid
    supervisor.worker().kill()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), before[1]))
    try:
        assert supervisor.worker().pid != pid
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        supervisor.close()
    assert pauses == [0.0, 0.5, 2.0, 5.0, 10.0]
