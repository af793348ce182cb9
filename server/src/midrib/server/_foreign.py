"""Run code of users (loaders, imported modules) in threads that do not keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
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
    # The work is an argument: a function inside this one would keep it as long as the traceback of its error.
    threading.Thread(target=_run, args=(work, action, loop, done), name=action, daemon=True).start()
    return await done


def _run(work: Callable[[], T], action: str, loop: asyncio.AbstractEventLoop, done: asyncio.Future[T]) -> None:
    settle: Callable[[], None]
    try:
        settle = partial(_set_result, done, work())
    except BaseException as error:  # noqa: BLE001 - the code of a user may raise anything
        settle = partial(_set_error, done, ordinary_error(error, action))
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
    del work, done, settle  # the traceback of an error keeps this frame, and the objects that it refers to


def _set_result(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _set_error(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
