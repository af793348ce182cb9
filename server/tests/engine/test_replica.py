"""The thread of a replica: order, items that fail, and loss of the thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from unittest.mock import Mock

import numpy as np
import pytest

from midrib.server._engine.compute import Arrays, Compute, Stop, WorkerPlan
from midrib.server._engine.replica import Replica
from midrib.wire import Array, UnavailableError


class Simple:
    """A compute of one function, which computes as soon as it is launched."""

    depth = 2

    def __init__(self, function: Callable[[Sequence[Arrays]], list[Array]]) -> None:
        self._function = function

    def stage(self, batch: Sequence[Arrays]) -> SimpleBatch:
        return SimpleBatch(self._function, batch)

    def close(self) -> None:
        """Nothing to free."""


class SimpleBatch:
    """Staged, then launched."""

    ready = True

    def __init__(self, function: Callable[[Sequence[Arrays]], list[Array]], batch: Sequence[Arrays]) -> None:
        self._function, self._batch = function, batch

    def launch(self) -> SimpleBatch:
        self._results = self._function(self._batch)
        return self

    def finish(self) -> list[Array]:
        return self._results


def doubling(batch: Sequence[Arrays]) -> list[Array]:
    if any((arrays[0] < 0).any() for arrays in batch):
        raise ValueError("negative")
    return [arrays[0] * 2 for arrays in batch]


def rows(*values: int) -> Arrays:
    return (np.array(values),)


async def started(function: Callable[[Sequence[Arrays]], list[Array]]) -> Replica:
    replica = Replica(lambda: Simple(function), name="test")
    await replica.start()
    return replica


async def test_every_item_gets_its_rows() -> None:
    """One result for each item, in the order of the batch."""
    replica = await started(doubling)
    report = await replica.submit([rows(1, 2), rows(3)])
    replica.close()
    assert [list(result) for result in report.results if isinstance(result, np.ndarray)] == [[2, 4], [6]]
    assert report.started <= report.finished


async def test_the_event_loop_is_woken_once_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not woken for each item."""
    replica = await started(doubling)
    loop = asyncio.get_running_loop()
    woken = Mock(side_effect=loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", woken)
    for _ in range(3):
        await replica.submit([rows(number) for number in range(50)])
    replica.close()
    assert woken.call_count == 3


async def test_an_item_that_fails_does_not_fail_others() -> None:
    """The other items of the batch get their rows."""
    replica = await started(doubling)
    report = await replica.submit([rows(1), rows(-1), rows(3), rows(4)])
    replica.close()
    assert [str(result) for result in report.results] == ["[2]", "negative", "[6]", "[8]"]


async def test_start_raises_the_error_of_preparing() -> None:
    """A backbone that cannot be built does not serve."""

    def broken() -> Compute:
        raise MemoryError("no room for the weights")

    with pytest.raises(MemoryError, match="no room for the weights"):
        await Replica(broken, name="test").start()


async def test_a_lost_thread_fails_its_items_as_retriable() -> None:
    """The batch that it ran and those behind it."""
    running, go_on = threading.Event(), threading.Event()

    def dying(batch: Sequence[Arrays]) -> list[Array]:
        running.set()
        go_on.wait(10)
        raise SystemExit

    replica = await started(dying)
    runs = [replica.submit([rows(1)]) for _ in range(2)]
    await asyncio.to_thread(running.wait, 10)
    go_on.set()
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, UnavailableError]
    with pytest.raises(UnavailableError, match="the replica that ran this item was lost"):
        await replica.submit([rows(1)])


async def test_a_lost_thread_ends_a_measurement() -> None:
    """Later measurements end too, because nothing computes here any more."""

    class Dying(Simple):
        def measure_again(self, stop: Stop) -> WorkerPlan | None:
            raise SystemExit

        def use_plan(self, plan: WorkerPlan) -> None:
            """The plan stays."""

        def probe(self) -> object:
            """It can compute."""
            return None

    replica = Replica(lambda: Dying(doubling), name="test")
    await replica.start()
    with pytest.raises(UnavailableError, match="the replica that ran this item was lost"):
        await asyncio.wait_for(replica.change_plan(None), 10)
    assert await asyncio.wait_for(replica.change_plan(None), 10) is None


class Steps:
    """A compute like a GPU's: it records the steps, and a batch is finished when the test lets it."""

    depth = 3

    def __init__(self) -> None:
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.may_finish = {name: threading.Event() for name in ("0", "1", "2")}

    def stage(self, batch: Sequence[Arrays]) -> Step:
        return Step(self, str(batch[0][0][0]), batch)

    def close(self) -> None:
        """Nothing to free."""

    def next_notes(self, count: int) -> list[str]:
        return [self.notes.get(timeout=20) for _ in range(count)]


class Step:
    """One batch of `Steps`."""

    ready = False

    def __init__(self, steps: Steps, name: str, batch: Sequence[Arrays]) -> None:
        self._steps, self._name, self._batch = steps, name, batch
        steps.notes.put(f"staged {name}")

    def launch(self) -> Step:
        self._steps.notes.put(f"launched {self._name}")
        return self

    def finish(self) -> list[Array]:
        self._steps.may_finish[self._name].wait(20)
        self._steps.notes.put(f"finished {self._name}")
        return [arrays[0] for arrays in self._batch]


async def test_the_next_batches_are_launched_before_the_first_is_finished() -> None:
    """Copies in, computation and copies out of three batches overlap; they are reported in order."""
    steps = Steps()
    replica = Replica(lambda: steps, name="test")
    await replica.start()
    reports = [replica.submit([rows(number)]) for number in range(3)]
    launched = await asyncio.to_thread(steps.next_notes, 6)
    for name in ("0", "1", "2"):
        steps.may_finish[name].set()
    finished = await asyncio.to_thread(steps.next_notes, 3)
    values = [int((await report).results[0][0]) for report in reports]  # type: ignore[index] # no errors here
    replica.close()
    await replica.join()
    assert [note for note in launched if "launched" in note] == ["launched 0", "launched 1", "launched 2"]
    assert (finished, values) == (["finished 0", "finished 1", "finished 2"], [0, 1, 2])


async def test_a_batch_is_staged_while_another_computes() -> None:
    """On a CPU, launching computes: the next batch's buffer is filled by then."""
    computing, go_on, staged = threading.Event(), threading.Event(), threading.Event()

    class Slow(Simple):
        def stage(self, batch: Sequence[Arrays]) -> SimpleBatch:
            if computing.is_set():
                staged.set()
            return super().stage(batch)

    def slow(batch: Sequence[Arrays]) -> list[Array]:
        computing.set()
        go_on.wait(20)
        return doubling(batch)

    replica = Replica(lambda: Slow(slow), name="test")
    await replica.start()
    first = replica.submit([rows(1)])
    await asyncio.to_thread(computing.wait, 20)
    second = replica.submit([(np.full((1, 1 << 18), 2, np.float32),)])
    assert await asyncio.to_thread(staged.wait, 20)
    assert not first.done()
    go_on.set()
    assert [(await report).results[0].max() for report in (first, second)] == [2, 4]  # type: ignore[union-attr] # no errors here
    replica.close()


async def test_a_small_batch_is_staged_by_the_thread_that_computes() -> None:
    """Waking another thread would take longer."""
    staged_by: list[str] = []

    class Noting(Simple):
        def stage(self, batch: Sequence[Arrays]) -> SimpleBatch:
            staged_by.append(threading.current_thread().name)
            return super().stage(batch)

    replica = Replica(lambda: Noting(doubling), name="test")
    await replica.start()
    await asyncio.gather(*(replica.submit([rows(number)]) for number in range(3)))
    replica.close()
    assert staged_by == ["replica-test"] * 3


async def test_a_batch_does_not_count_the_time_of_the_one_before() -> None:
    """It was launched while the first one computed, and began when that had ended."""
    steps = Steps()
    replica = Replica(lambda: steps, name="test")
    await replica.start()
    reports = [replica.submit([rows(number)]) for number in range(2)]
    await asyncio.to_thread(steps.next_notes, 4)
    steps.may_finish["0"].set()
    first = await reports[0]
    steps.may_finish["1"].set()
    second = await reports[1]
    replica.close()
    assert second.started >= first.finished
