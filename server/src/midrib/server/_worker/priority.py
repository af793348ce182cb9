"""The priority of processes that start: they compute only on cores that no serving thread needs.

A process that starts beside a serving one would otherwise keep its core until the next tick of the scheduler, some
milliseconds, each time the serving one wakes up. The server lowers priorities only if it can raise them again: Linux
requires CAP_SYS_NICE or a limit RLIMIT_NICE of at least 20. The server raises them, because a process of low priority
may hardly advance.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# A load that is not finished after this time continues at normal priority.
MAX_LOW_S = 1.0
# A thread may start another one while the list of threads is read.
_MAX_PASSES = 5


@cache
def can_lower() -> bool:
    """Return whether the processes that this one starts may have low priority: whether it can raise it again.

    Tried on a thread that ends then. False if this process was itself started at another priority than the usual one.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER or not Path("/proc/self/task").is_dir():
        return False
    returned = threading.Event()
    thread = threading.Thread(target=_lower_and_return, args=(returned,))
    thread.start()
    thread.join()
    return returned.is_set()


def lower_priority() -> None:
    """Let all other threads run before this one, and before the threads and processes that it starts.

    Raises OSError if the system refuses it.
    """
    _set_policy(0, os.SCHED_IDLE)


def raise_priority(pid: int) -> None:
    """Give all threads of a process and of its descendants that have low priority a normal one.

    A worker that is to be killed ends sooner then, if other work uses all cores. Has no effect if this server does not
    lower priorities.
    """
    if can_lower():
        _raise(pid)


def raise_thread(task: int) -> None:
    """Give a thread normal priority; 0 is this thread. The id of a process is that of its first thread."""
    with contextlib.suppress(OSError):  # it has ended
        _set_policy(task, os.SCHED_OTHER)


def _raise(pid: int) -> None:
    for _ in range(_MAX_PASSES):
        low = [task for task in _tasks(pid) if _is_low(task)]
        for task in low:
            raise_thread(task)
        if not low:
            break


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
