"""The limit on how often a worker starts, for any times at which starts are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midrib.server._worker.token_bucket import TokenBucket

SIZES = st.integers(1, 6)
REFILLS = st.integers(1, 10)
PAUSES = st.lists(st.integers(0, 30), min_size=2, max_size=25)


def events(bucket: TokenBucket, pauses: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return the times of events, and how long each waited. pauses: the seconds from each event to the next request."""
    now, times, waits = 100.0, [], []
    for pause in pauses:
        now += pause
        waits.append(bucket.take(now))
        now += waits[-1]
        times.append(now)
    return times, waits


@given(size=SIZES, refill_s=REFILLS, pauses=PAUSES)
def test_no_period_has_more_events_than_the_bucket_and_its_refill(size: int, refill_s: int, pauses: list[int]) -> None:
    """In `s` seconds, at most `size` and one for each `refill_s`."""
    times, _ = events(TokenBucket(size, refill_s), pauses)
    for first, last in combinations(range(len(times)), 2):
        assert last - first + 1 <= size + (times[last] - times[first]) / refill_s


@given(size=SIZES, refill_s=REFILLS, pauses=PAUSES)
def test_an_event_waits_for_one_token_at_most(size: int, refill_s: int, pauses: list[int]) -> None:
    """The wait does not grow with the number of events, and those of a full bucket do not wait."""
    _, waits = events(TokenBucket(size, refill_s), pauses)
    assert waits[:size] == [0.0] * len(waits[:size])
    assert max(waits) <= refill_s


@given(size=SIZES, refill_s=REFILLS, pauses=PAUSES)
def test_the_bucket_is_full_again_after_a_quiet_time(size: int, refill_s: int, pauses: list[int]) -> None:
    """Earlier events are forgotten then."""
    bucket = TokenBucket(size, refill_s)
    events(bucket, pauses)
    later = 100.0 + sum(pauses) + 2 * refill_s * (len(pauses) + size)
    assert [bucket.take(later) for _ in range(size)] == [0.0] * size
    assert bucket.take(later) == refill_s


@pytest.mark.parametrize("refill_s", [1, 2, 5])
def test_events_at_the_rate_of_the_refill_never_wait(refill_s: int) -> None:
    """A worker that dies every two seconds is replaced at once."""
    _, waits = events(TokenBucket(1, refill_s), [refill_s] * 50)
    assert waits == [0.0] * 50
