"""Callers that check every answer of a server while it is disturbed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from midrib.remote import Client

NAME = "test/embedding/times"
ROWS = 16


class Load:
    """Callers that each count up, and check every row of every answer, until they are stopped.

    pause_s: between two calls of a caller.  It is made once each caller has had an answer.
    """

    def __init__(self, address: str, *, callers: int = 8, pause_s: float = 0.0) -> None:
        self._address = address
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._answered = threading.Barrier(callers + 1, timeout=60)
        self._answers = threading.Semaphore(0)
        self._threads = ThreadPoolExecutor(callers)
        self._calls = [self._threads.submit(self._call, 1_000_000 * caller) for caller in range(callers)]
        self._answered.wait()

    def _call(self, first: int) -> int:
        count = 0
        with Client(self._address, timeout=120) as client:
            client.embed(NAME, rows(1))
            self._answered.wait()
            while not self._stop.wait(self._pause_s):
                numbers = np.arange(first, first + ROWS, dtype=np.float32) + ROWS * count
                answer = client.embed(NAME, np.repeat(numbers[:, None], 2, axis=1))
                assert answer[:, 0].tolist() == answer[:, 1].tolist() == (2 * numbers).tolist()
                count += 1
                self._answers.release()
        return ROWS * count

    def wait_for(self, items: int) -> None:
        """Return once this number of rows is answered. Raises TimeoutError, or the first error of a caller."""
        for _ in range(-(-items // ROWS)):
            if not self._answers.acquire(timeout=150):
                raise TimeoutError(f"no answer within 150 s; {self.stop()} rows are answered, expected {items}")

    def stop(self) -> int:
        """Return the number of rows that were answered; raises the first error of a caller."""
        self._stop.set()
        return sum(call.result(150) for call in self._calls)


def rows(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return rows [count, 2] of different numbers."""
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)
