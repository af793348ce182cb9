"""Work on large messages, in threads and in steps, so that the event loop runs in between.

A thread that copies 60 MiB in one call holds the interpreter's lock (the GIL) for that time, and blocks the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

Buffer: TypeAlias = bytes | memoryview
T = TypeVar("T")

# The event loop may copy, check or convert this many bytes in one step: it takes less than a millisecond.
LARGE_BYTES = 2**20
_STEP_BYTES = 2**18


async def beside_loop(size: int, call: Callable[[], T]) -> T:
    """Return the result of `call`, in a thread if it works on many bytes. size: the number of these bytes."""
    return call() if size <= LARGE_BYTES else await asyncio.to_thread(call)


def joined(parts: Sequence[Buffer]) -> bytes:
    """Return all parts as one `bytes`. Large parts are copied in steps; call it in a thread for many bytes."""
    if sum(map(len, parts)) <= _STEP_BYTES:
        return b"".join(parts)
    return b"".join(piece for part in parts for piece in _pieces(part))  # releases the GIL: all pieces are bytes


def _pieces(part: Buffer) -> Iterable[bytes]:
    if isinstance(part, bytes):
        return (part,)
    return [bytes(part[at : at + _STEP_BYTES]) for at in range(0, len(part), _STEP_BYTES)]
