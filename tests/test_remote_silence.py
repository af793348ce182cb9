"""Calls to a server that accepts them and never answers: each ends at its own deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from midrib.remote import AsyncClient, Client
from midrib.wire import DeadlineExceededError

TIMEOUT_S, CALLS = 3.0, 2
# After a third of the timeout a call closes the channel, which all calls share: these begin at other times.
OFFSET_S = TIMEOUT_S / 6


class Silent(grpc.GenericRpcHandler):
    """A handler of all methods that answers none before it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def service(self, _: Any) -> Any:
        """Return a handler that waits."""

        def wait(_request: bytes, _context: Any) -> bytes:
            self.released.wait(60.0)
            return b""

        return grpc.unary_unary_rpc_method_handler(wait)


@pytest.fixture()
def address() -> Iterator[str]:
    """The address of the server."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(64))
        handler, server = Silent(), grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        stack.callback(handler.released.set)
        yield f"127.0.0.1:{port}"


def seconds_to_fail(client: Client, delay_s: float) -> float:
    """Call after a delay, and return the seconds until the call failed."""
    threading.Event().wait(delay_s)
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="silent"):
        client.list()
    return time.monotonic() - began


def test_calls_of_threads_that_share_a_silent_channel_end(address: str) -> None:
    """Before, each call that closed the channel made the others begin again, with their whole timeouts."""
    client = Client(address, timeout=TIMEOUT_S)
    with ThreadPoolExecutor(CALLS) as pool:
        waits = pool.map(lambda index: seconds_to_fail(client, OFFSET_S * index), range(CALLS), timeout=40.0)
        assert max(waits) < 3 * TIMEOUT_S


async def test_calls_of_an_event_loop_end_as_well(address: str) -> None:
    """They are cancelled by the same channel."""
    client = AsyncClient(address, timeout=TIMEOUT_S)

    async def call(index: int) -> None:
        await asyncio.sleep(OFFSET_S * index)
        with pytest.raises(DeadlineExceededError, match="silent"):
            await client.list()

    async with asyncio.timeout(3 * TIMEOUT_S):
        await asyncio.gather(*map(call, range(CALLS)))
