"""The priority of a worker process: while it loads, it computes only on cores that no other thread needs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

# A load that other work delays for this time continues at normal priority.
MAX_LOW_S = 1.0
# A thread may start another one while the list of threads is read.
_MAX_PASSES = 5


class LowPriority:
    """Lets the threads of all other processes run first, from `begin` until `end`, or for a limited time.

    A process that starts beside a serving one would otherwise keep its core until the next tick of the scheduler, some
    milliseconds, each time the serving one wakes up. Has no effect if the system does not allow a return to normal
    priority: Linux requires CAP_SYS_NICE or a limit RLIMIT_NICE of at least 20.

    max_s: the limit.
    """

    def __init__(self, max_s: float) -> None:
        self._timer = threading.Timer(max_s, self.end)
        self._timer.daemon = True
        self._low = False

    def begin(self) -> None:
        """Lower the priority of this thread, and of the threads and processes that it starts."""
        if not _can_return():
            return
        self._low = True
        self._timer.start()  # a thread started after the next line would have low priority
        _set_policy(0, os.SCHED_IDLE)

    def end(self) -> None:
        """Give all threads of this process and of its descendants normal priority."""
        self._timer.cancel()
        if self._low:
            _raise(os.getpid())
            self._low = False


def raise_priority(pid: int) -> None:
    """Give all threads of a worker and of its descendants that have low priority a normal one.

    A worker that is to be killed ends sooner then, if other work uses all cores. Has no effect if the server itself was
    started at low priority.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        _raise(pid)


def _raise(pid: int) -> None:
    for _ in range(_MAX_PASSES):
        low = [task for task in _tasks(pid) if _is_low(task)]
        for task in low:
            with contextlib.suppress(OSError):  # it has ended, or the process has given up its privileges
                _set_policy(task, os.SCHED_OTHER)
        if not low:
            break


def _can_return() -> bool:
    """Return whether a thread of usual priority can lower it and return. Tried on a thread that ends then."""
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    returned = threading.Event()
    thread = threading.Thread(target=_lower_and_return, args=(returned,))
    thread.start()
    thread.join()
    return returned.is_set()


def _lower_and_return(returned: threading.Event) -> None:
    with contextlib.suppress(OSError):
        _set_policy(0, os.SCHED_IDLE)
        _set_policy(0, os.SCHED_OTHER)
        returned.set()


def _set_policy(task: int, policy: int) -> None:
    """Set the policy of a thread; 0 is this thread. Raises OSError."""
    os.sched_setscheduler(task, policy, os.sched_param(0))


def _is_low(task: int) -> bool:
    try:
        return os.sched_getscheduler(task) == os.SCHED_IDLE
    except OSError:  # it has ended
        return False


def _tasks(pid: int, processes: Path = Path("/proc")) -> Iterator[int]:
    """Yield the threads of a process and of its descendants, which only some systems list.

    processes: a folder as Linux's /proc.
    """
    folder = processes / str(pid) / "task"
    tasks: list[str] = []
    with contextlib.suppress(OSError):  # the process has ended
        tasks = os.listdir(folder)
    for task in tasks:
        yield int(task)
        for child in _children(folder / task):
            yield from _tasks(child, processes)


def _children(task: Path) -> list[int]:
    """Return the processes that a thread has started; none if it has ended, or if the system does not list them."""
    with contextlib.suppress(OSError):
        return [int(child) for child in (task / "children").read_text().split()]
    return []
