"""A call is a one-shot result: ended once, from any thread, for everyone who waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from midrib.remote._items.rows import tensor_rows
from midrib.remote._stream.call import StreamedCall
from midrib.wire import Array, InternalError

FEATURES = np.arange(4, dtype="f4").reshape(2, 2)


def a_call() -> StreamedCall:
    return StreamedCall(tensor_rows(np.ones((2, 3), "f4")))


def waited(call: StreamedCall) -> Array:
    assert call.wait(60)
    return call.result()


def test_every_thread_that_waits_gets_the_features() -> None:
    """All of them wake, with the same values."""
    call = a_call()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(waited, call) for _ in range(8)]
        call.deliver(0, FEATURES)
        got = [each.result() for each in waiting]
    np.testing.assert_array_equal(got, [FEATURES] * 8)


def test_a_wait_ends_with_its_time() -> None:
    """The call itself continues: another waits for it still."""
    call = a_call()
    assert not call.wait(0.01)
    assert not call.wait(-1.0)
    call.deliver(0, FEATURES)
    assert call.wait(0.0)


def test_an_error_is_raised_in_the_thread_that_waits() -> None:
    """It is the error with which the call failed."""
    call = a_call()
    call.fail(InternalError("broken"))
    with pytest.raises(InternalError, match="broken"):
        waited(call)


def test_the_waker_of_a_finished_call_is_called_at_once() -> None:
    """A part that has its features is done."""
    call, woken = a_call(), threading.Event()
    call.deliver(0, FEATURES)
    call.when_done(woken.set)
    assert woken.is_set()


def test_a_call_that_threads_race_to_end_ends_once() -> None:
    """If a call is answered, failed and given up at once, one of them counts, and each waker is called once."""
    ends: list[Callable[[StreamedCall], None]] = [
        lambda call: call.deliver(0, FEATURES),
        lambda call: call.fail(InternalError("failed")),
        lambda call: call.leave(),
    ]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            assert _race(pool, ends) == [1, 1]


def _race(pool: ThreadPoolExecutor, ends: list[Callable[[StreamedCall], None]]) -> list[int]:
    """How often a waker from before the race was called, and one of its midst."""
    call, early, late = a_call(), list[None](), list[None]()
    start = threading.Barrier(len(ends) + 1)
    call.when_done(lambda: early.append(None))

    def run(act: Callable[[StreamedCall], None]) -> None:
        start.wait(60)
        act(call)

    racing = [pool.submit(run, act) for act in (*ends, lambda call: call.when_done(lambda: late.append(None)))]
    for each in racing:
        each.result()
    with contextlib.suppress(InternalError, CancelledError):
        np.testing.assert_array_equal(call.result(), FEATURES)
    return [len(early), len(late)]


def test_calls_that_fail_together_raise_an_error_each() -> None:
    """A shared one would keep the inputs of all callers: a raised error keeps the frames that it passed."""
    error = InternalError("broken", reason="BROKEN")
    for call in (a_call(), a_call()):
        call.fail(error)
        with pytest.raises(InternalError, match="broken") as caught:
            waited(call)
        assert (caught.value.reason, error.__traceback__) == ("BROKEN", None)
