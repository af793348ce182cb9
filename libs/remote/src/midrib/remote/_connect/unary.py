"""Unary calls to servers that answer alike: one after the other until one answers, within the caller's deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.arguments import checked_seconds
from midrib.remote._connect.diagnosis import UNREACHABLE
from midrib.remote._connect.event_loop import current_runtime, runtime
from midrib.remote._connect.retries import attempts, retriable
from midrib.remote._connect.tcp_progress import SLOWEST_BYTES_PER_S, while_progressing
from midrib.remote._connect.transport import call
from midrib.wire import DeadlineExceededError, MidribError, UnavailableError

# Seconds after which an unreachable address is an error: a server that is starting has this long.
CONNECT_S: Final = 5.0
# The number of a connection that no stream uses, see `Runtime.channel`.
_WITHOUT_STREAMS: Final = -1
BACKBONES: Final = "/midrib.v1.BackboneService"
_SLOW: Final = {f"{BACKBONES}/LoadBackbone", f"{BACKBONES}/UnloadBackbone"}
_Response = TypeVar("_Response", bound=Message)
_T = TypeVar("_T")


def run_on_loop(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine on the runtime's loop, from any other thread, and return its result.

    Runs it again on the next loop if the loop closes for a fork. Raises the coroutine's errors.
    """
    while True:
        call = runtime().start(work())
        try:
            call.wait()
        except BaseException:  # Ctrl-C, or an error of a signal handler
            call.leave()
            raise
        with contextlib.suppress(CancelledError):
            return call.result()


class _Limit:
    """The deadline of one call, which moves while a large request makes progress.

    left_s: seconds to the deadline.  longest_s: seconds that it can become.
    """

    def __init__(self, deadline: asyncio.Timeout, request_bytes: int) -> None:
        self._deadline = deadline
        self._when = deadline.when() or 0.0
        self._latest = self._when + request_bytes / SLOWEST_BYTES_PER_S
        now = asyncio.get_running_loop().time()
        self.left_s = max(0.001, self._when - now)
        self.longest_s = max(0.001, self._latest - now)

    def extend(self, seconds: float) -> None:
        """Move the deadline, at most to when the request had passed the slowest line."""
        self._when = min(self._latest, self._when + seconds)
        self._deadline.reschedule(self._when)


class UnaryCalls:
    """Unary calls, awaited on the runtime's loop; `run` and `run_async` start them from other threads and loops.

    timeout: seconds that a call may take. Raises InvalidInputError for one that is not a positive number.
    """

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = checked_seconds("timeout", timeout)
        self._first = 0
        self._connection = 0

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run one of the calls from a thread without an event loop, and return its result."""
        return run_on_loop(work)

    async def run_async(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run one of the calls from another event loop, and return its result."""
        while True:
            with contextlib.suppress(CancelledError):  # of this process's loop, which closed for a fork: call again
                return await runtime().start(work()).result_async()

    async def invoke(self, method: str, request: Message, response: type[_Response]) -> _Response:
        """Make any call, by its path "/package.Service/Method": to one address after the other until one answers.

        The time in which a large request makes progress on a slow line does not count against the timeout.
        Raises the last error if waiting does not help, or if no server was reached before the deadline;
        DeadlineExceededError if time is up.
        """
        began = time.monotonic()
        last: MidribError | None = None
        addresses = itertools.cycle(self._rotated())
        untried = set(self.endpoint.addresses)
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                async for attempt in attempts(lambda error: self._worthwhile(error, began, untried)):
                    with attempt:
                        address = next(addresses)
                        untried.discard(address)
                        try:
                            return await self._once(address, method, request, response, deadline)
                        except MidribError as error:
                            last = error
                            raise
        except TimeoutError as error:
            if isinstance(error, MidribError):
                raise
        if last is not None and last.reason in UNREACHABLE:
            raise last
        raise self._late(method, last) from last

    async def _once(
        self, address: str, method: str, request: Message, response: type[_Response], deadline: asyncio.Timeout
    ) -> _Response:
        """Call one machine once. Raises UnavailableError if it does not answer in time, and the server's errors."""
        limit = _Limit(deadline, request.ByteSize())
        # A dead connection costs a third of the time or less, so that each address can be tried. Loading takes long
        # without a sign of life.
        share_s = max(1.0, self.timeout / (2 + len(self.endpoint.addresses)))
        silence_s = limit.left_s if method in _SLOW else min(limit.left_s, share_s)
        channel = current_runtime().channel(address, self.endpoint, number=self._connection)
        path = method if method.startswith("/") else f"/midrib.v1.{method}"
        unary = call(channel, address, self.endpoint, path, request, response, limit.longest_s)
        try:
            result = await while_progressing(unary, address, silence_s, limit.extend)
        except TimeoutError as error:  # DeadlineExceededError is one too
            current_runtime().drop(channel)
            # A stream of this process may occupy the only call that a connection permits: use one without streams.
            self._connection = _WITHOUT_STREAMS if self._connection == 0 else 0
            raise UnavailableError(f"{address} is silent", reason="SILENT") from error
        except MidribError as error:
            if error.reason == "CONNECT_TIMEOUT":
                current_runtime().allow_longer_connect(channel)
            raise
        self._first = self.endpoint.addresses.index(address)  # call the server that answered first next time
        return result

    def prefer_next(self) -> None:
        """Call the next address first from now on, because the last server may be about to leave."""
        self._first = (self._first + 1) % len(self.endpoint.addresses)

    def _rotated(self) -> tuple[str, ...]:
        addresses = self.endpoint.addresses
        return addresses[self._first :] + addresses[: self._first]

    def _worthwhile(self, error: BaseException, began: float, untried: Collection[str]) -> bool:
        if not isinstance(error, MidribError) or not retriable(error):
            return False
        return bool(untried) or error.reason not in UNREACHABLE or time.monotonic() - began <= CONNECT_S

    def _late(self, method: str, last: MidribError | None) -> DeadlineExceededError:
        why = f" ({last})" if last is not None else ""
        call_name = method.rpartition("/")[2]
        return DeadlineExceededError(
            f"{call_name} at {self.endpoint}: no answer within {self.timeout:g} s{why}: raise timeout="
        )
