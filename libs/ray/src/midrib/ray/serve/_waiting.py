"""Calls that no replica can take: they make Ray start a replica, also if none runs."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

APPLICATION = "MIDRIB_RAY_APPLICATION"
"""The variable that names our application to the proxies of Ray."""

# Calls are refused after this time, and sent again by their clients: within the time-outs of usual callers.
_MAX_WAIT_S = 5.0

logger = logging.getLogger(__name__)
_handles: list[Any] = []


async def wait_for_replica() -> None:
    """Return once a replica is ready, or after some seconds.

    Ray counts a request that waits at a handle, and hands the count to `by_device_time`.
    """
    try:
        await asyncio.wait_for(_ready(), _MAX_WAIT_S)
    except TimeoutError:
        return
    except Exception:  # noqa: BLE001 - the caller tries again in any case
        logger.warning("cannot ask Ray Serve for a replica", exc_info=True)


async def _ready() -> None:
    if not _handles:
        _handles.append(await asyncio.to_thread(_handle))
    await _handles[0].ready.remote()


def _handle() -> Any:
    """Return Ray's handle of the deployment."""
    from ray import serve

    return serve.get_app_handle(os.environ[APPLICATION])
