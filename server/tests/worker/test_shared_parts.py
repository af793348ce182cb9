"""A replica computes items of another one whose worker is being replaced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from midrib.server._worker.work import Batch, Part
from midrib.wire import UnavailableError


def test_the_items_of_another_replica_fail_with_the_replica_that_has_them(
    replica_of: Callable[..., Any], kill: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the system has no thread left to find out how the worker ended."""
    replica = replica_of("doubling", {"fault": "hangs"})
    batches: list[Batch] = []

    def submit() -> bool:
        batches.append(Batch([(np.full((1, 2), 666, np.float32),)], asyncio.get_running_loop().create_future()))
        replica.replica.take(Part(batches[0], 0, 1))
        return True

    pid = replica.pid
    replica.wait_for(submit)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    kill(pid)
    replica.wait_for(lambda: batches[0].done.done())
    monkeypatch.undo()
    assert isinstance(batches[0].done.exception(), UnavailableError)


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
