"""Retries: which errors may pass, and how long to wait for the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from midrib.wire import MidribError, OverloadedError, UnavailableError

_FIRST_DELAY_S: Final = 0.05
_MAX_DELAY_S: Final = 1.0
# The system's: users seed the one of the module `random`, and a fork copies any other.
_RANDOM: Final = random.SystemRandom()


def attempts(worthwhile: Callable[[BaseException], bool], failing: Callable[[], int] = lambda: 1) -> AsyncRetrying:
    """`async for attempt in attempts(...): with attempt: ...` until it succeeds, or an error is not worthwhile.

    failing: returns how many servers the client tries again at present, see `wait_s`.
    Without limit, because the caller has a deadline, and without log lines, because retries need no attention.
    """

    def between(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return wait_s(error, state.attempt_number, failing())

    return AsyncRetrying(retry=retry_if_exception(worthwhile), wait=between, reraise=True)


def retriable(error: BaseException) -> bool:
    """Return whether the same call may succeed later: no server answered, or the server had no room."""
    return isinstance(error, UnavailableError | OverloadedError)


def wait_s(error: BaseException | None, failures: int = 1, failing: int = 1) -> float:
    """Return the seconds until the next attempt: at least the server's retry_after, or longer with each failure.

    failing: how many servers the client tries again at present. On average it waits longer for each of them, so that it
    makes no more attempts a second than with one server: otherwise thousands of clients that lost a whole fleet would
    return within a moment. The attempts are spread over that time, so that one soon finds a server that is back.
    At least a random half is added, so that clients which failed together do not return together.
    """
    delay_s = error.retry_after if isinstance(error, MidribError) else None
    if delay_s is None:
        delay_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))
        return delay_s * _RANDOM.uniform(1.0, 2.5 * max(1, failing) - 1.0)
    return max(_FIRST_DELAY_S, delay_s) * _RANDOM.uniform(1.0, 1.5)
