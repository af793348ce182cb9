"""Health.Watch on Ray, which does not tell a replica that it is about to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc


async def serve_watch(watch: Awaitable[None], context: Any, *, longest_s: float) -> None:
    """Serve a Watch until its client leaves, for at most some seconds: Ray waits for the calls of a leaving replica.

    Raises AbortError with UNAVAILABLE after that time. Clients of the health protocol then watch again.
    """
    try:
        async with asyncio.timeout(longest_s) as limit:
            await watch
    except TimeoutError:
        if not limit.expired():
            raise
        await context.abort(
            grpc.StatusCode.UNAVAILABLE,
            f"a Watch ends after {longest_s:g} s, so that its replica can leave: watch again",
        )
