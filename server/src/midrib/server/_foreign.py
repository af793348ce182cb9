"""Run code of users (loaders, imported modules) in threads that do not keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from midrib.server._errors import ordinary_error

T = TypeVar("T")


async def in_thread(work: Callable[[], T], action: str) -> T:
    """Return the result of the work, computed in a daemon thread.

    A loader may hang for ever, and the threads of asyncio.to_thread would be joined when the process ends.
    Raises the errors of the work; SystemExit and KeyboardInterrupt as RuntimeError, in which `action` names the work.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type] # a result of None is of type T too
        else:
            done.set_exception(error)

    def run() -> None:
        result: T | None = None
        raised: Exception | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - the code of a user may raise anything
            raised = ordinary_error(error, action)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=run, name=action, daemon=True).start()
    return await done
