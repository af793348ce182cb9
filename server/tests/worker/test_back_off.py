"""The pauses before a dead worker is replaced, with real workers; the test takes the place of the waiting."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator

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


def test_workers_that_end_at_once_without_a_batch_are_started_after_longer_and_longer_pauses(
    workers: ReplicaWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end for a reason of the module: in the end the replica is lost, and the backbone is FAILED."""
    monkeypatch.setattr("midrib.server._worker.supervision._SHORT_LIFE_S", 600.0)
    pauses: list[float] = []
    supervisor = supervised(workers, pauses.append)

    with pytest.raises(WorkerLostError, match="10 workers of doubling in sequence ended without a batch"):
        die_until_lost(supervisor)
    supervisor.close()
    assert [pause for pause in pauses if pause] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_worker_that_dies_with_a_batch_is_replaced_without_a_pause(workers: ReplicaWorkers) -> None:
    """The batch is the reason, and it is tried a limited number of times."""
    pauses: list[float] = []
    supervisor = supervised(workers, pauses.append)
    for _ in range(4):
        supervisor.worker().kill()
        supervisor.worker(was_idle=False)
    supervisor.close()
    assert pauses == [0.0] * 4


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
