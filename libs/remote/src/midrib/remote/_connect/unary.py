"""Unary calls to servers that answer alike: one after the other until one answers, inside the caller's deadline."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.backbone_info import BackboneInfo, info_from
from midrib.remote._connect.diagnosis import NOBODY
from midrib.remote._connect.event_loop import current_runtime, runtime
from midrib.remote._connect.retries import attempts, retriable
from midrib.remote._connect.transport import call
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import (
    Array,
    BackboneLoadingError,
    DeadlineExceededError,
    MidribError,
    UnavailableError,
    decode_tensor,
    encode_tensor,
)

# A wrong address is told after so long; a server that is starting has this long to come up.
CONNECT_S: Final = 5.0
_LOADING_POLL_S: Final = 0.2
_log = logging.getLogger("midrib.remote")
_BACKBONES: Final = "/midrib.v1.BackboneService"
_SLOW: Final = {f"{_BACKBONES}/LoadBackbone", f"{_BACKBONES}/UnloadBackbone"}
_Response = TypeVar("_Response", bound=Message)
_T = TypeVar("_T")
Argument: TypeAlias = str | int | float | bool  # - an int is sent as one


class UnaryCalls:
    """Unary calls, awaited on the runtime's loop; `run` and `run_async` start them from other threads and loops."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._first = 0

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do one of the calls from a plain thread."""
        while True:
            future = runtime().start(work())
            try:
                return future.result()
            except CancelledError:
                continue  # the loop closed for a fork: on the next one
            except BaseException:
                future.cancel()
                raise

    async def run_async(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do one of the calls from another event loop."""
        return await asyncio.wrap_future(runtime().start(work()))

    async def describe_loaded(self, name: str) -> BackboneInfo:
        """Return the description of a backbone, once it is loaded, within the timeout.

        Raises BackboneLoadingError if it is still loading then, or failed to load.
        """
        until = time.monotonic() + self.timeout
        info = await self.describe(name)
        if info.state == "loading":
            _log.warning("waiting for %s at %s, which is loading", name, self.endpoint)
        while info.state == "loading" and time.monotonic() < until:
            await asyncio.sleep(_LOADING_POLL_S)
            info = await self.describe(name)
        if info.input is None:
            reason = info.error or f"raise timeout={self.timeout:g}, or wait and try again"
            raise BackboneLoadingError(f"{info.name} at {self.endpoint} is {info.state}: {reason}")
        return info

    async def describe(self, name: str) -> BackboneInfo:
        """Return the description of a backbone, in whichever state it is."""
        request = backbone_pb2.GetBackboneRequest(name=name)
        response = await self.ask(f"{_BACKBONES}/GetBackbone", request, backbone_pb2.GetBackboneResponse)
        return info_from(response.backbone)

    async def list(self) -> list[BackboneInfo]:
        """Every backbone, ordered by name."""
        request = backbone_pb2.ListBackbonesRequest()
        response = await self.ask(f"{_BACKBONES}/ListBackbones", request, backbone_pb2.ListBackbonesResponse)
        return [info_from(backbone) for backbone in response.backbones]

    async def load(self, name: str, arguments: dict[str, Argument], *, replace: bool = False) -> BackboneInfo:
        """Load and warm up a registered backbone on the server. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        """
        request = backbone_pb2.LoadBackboneRequest(name=name, replace=replace)
        for key, value in arguments.items():
            kind = {bool: "bool_value", int: "int_value", float: "double_value"}.get(type(value), "string_value")
            setattr(request.arguments[key], kind, value)
        response = await self.ask(f"{_BACKBONES}/LoadBackbone", request, backbone_pb2.LoadBackboneResponse)
        return info_from(response.backbone)

    async def unload(self, name: str) -> None:
        """Have a backbone finished and freed. Admin scope."""
        request = backbone_pb2.UnloadBackboneRequest(name=name)
        await self.ask(f"{_BACKBONES}/UnloadBackbone", request, backbone_pb2.UnloadBackboneResponse)

    async def backward(self, name: str, revision: str, rows: Array, grad_embedding: Array) -> Array:
        """The input's gradient, for the gradient of its embedding."""
        request = embedding_pb2.BackwardRequest(
            backbone=name,
            revision=revision,
            input=encode_tensor(rows),
            grad_embedding=encode_tensor(grad_embedding),
        )
        response = await self.ask("/midrib.v1.EmbeddingService/Backward", request, embedding_pb2.BackwardResponse)
        return decode_tensor(response.grad_input)

    async def ask(self, method: str, request: Message, response: type[_Response]) -> _Response:
        """Any call, by its path "/package.Service/Method": the addresses in turn, until one answers.

        Raises the last error where waiting does not help, or where until the deadline nobody was there at all;
        DeadlineExceededError where time is up.
        """
        began = time.monotonic()
        last: MidribError | None = None
        addresses = itertools.cycle(self._rotated())
        try:
            async with asyncio.timeout(self.timeout):
                async for attempt in attempts(lambda error: self._worthwhile(error, began)):
                    with attempt:
                        address = next(addresses)
                        try:
                            return await self._once(address, method, request, response, began)
                        except MidribError as error:
                            last = error
                            raise
        except TimeoutError as error:
            if isinstance(error, MidribError):
                raise
        if last is not None and last.reason in NOBODY:
            raise last
        raise self._late(method, last) from last

    async def _once(
        self, address: str, method: str, request: Message, response: type[_Response], began: float
    ) -> _Response:
        left = max(0.001, self.timeout - (time.monotonic() - began))
        # A connection that is dead without a word costs a third of the time, not all of it; loading is slow by nature.
        attempt_s = left if method in _SLOW else min(left, max(1.0, self.timeout / 3))
        channel = current_runtime().channel(address, self.endpoint)
        try:
            found = await call(
                channel,
                address,
                self.endpoint,
                method if method.startswith("/") else f"/midrib.v1.{method}",
                request,
                response,
                attempt_s,
            )
        except DeadlineExceededError as error:
            current_runtime().drop(channel)
            raise UnavailableError(f"{address} is silent", reason="SILENT") from error
        self._first = self.endpoint.addresses.index(address)  # the one that answers is asked first next time
        return found

    def prefer_next(self) -> None:
        """Call the next address first: the one that answered last may be about to leave."""
        self._first = (self._first + 1) % len(self.endpoint.addresses)

    def _rotated(self) -> tuple[str, ...]:
        addresses = self.endpoint.addresses
        return addresses[self._first :] + addresses[: self._first]

    def _worthwhile(self, error: BaseException, began: float) -> bool:
        if not isinstance(error, MidribError) or not retriable(error):
            return False
        return error.reason not in NOBODY or time.monotonic() - began <= CONNECT_S

    def _late(self, method: str, last: MidribError | None) -> DeadlineExceededError:
        why = f" ({last})" if last is not None else ""
        call_name = method.rpartition("/")[2]
        return DeadlineExceededError(
            f"{call_name} at {self.endpoint}: no answer within {self.timeout:g} s{why}: raise timeout="
        )
