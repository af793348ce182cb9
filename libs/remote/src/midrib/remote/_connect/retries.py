"""Trying again: what may be asked once more, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from midrib.wire import MidribError, OverloadedError, UnavailableError

_FIRST_S: Final = 0.05
_MOST_S: Final = 1.0


def attempts(worthwhile: Callable[[BaseException], bool]) -> AsyncRetrying:
    """`async for attempt in attempts(...): with attempt: ...` until it succeeds, or an error is not worthwhile.

    Without end and without a word: the caller has the deadline, and a retry is no news for a user's log.
    """
    return AsyncRetrying(retry=retry_if_exception(worthwhile), wait=_between, reraise=True)


def retriable(error: BaseException) -> bool:
    """Whether the same call may succeed later: nobody answered, or the server had no room."""
    return isinstance(error, UnavailableError | OverloadedError)


def wait_s(error: BaseException | None, failures: int = 1) -> float:
    """Seconds until the next attempt: what the server asked for, or longer with each failure.

    Up to half as long again, at random: clients that failed together must not come back together.
    """
    asked = error.retry_after if isinstance(error, MidribError) else None
    if asked is None:
        asked = min(_MOST_S, _FIRST_S * 2.0 ** min(failures - 1, 10))
    return asked * random.uniform(1.0, 1.5)  # noqa: S311 - spreads retries, guards nothing


def _between(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return wait_s(error, state.attempt_number)
