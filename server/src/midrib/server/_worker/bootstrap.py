"""The first steps of a worker process, before it imports torch or any module of a user."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from functools import partial
from typing import Any

from midrib.server._child_process import adopt_orphans, end_with_parent, leave_terminal, set_name
from midrib.server._worker import loop
from midrib.server._worker.channel import Channel
from midrib.server._worker.priority import lower_priority
from midrib.server._worker.shared_buffer import SharedBuffer

# The name of a worker in `ps` and `top`.
PROCESS_NAME = "midrib-worker"
# A module may replace `os._exit`; this reference stays.
_exit = os._exit


def main(arguments: dict[str, Any]) -> None:
    """Run a worker until the server's process closes the channel, or dies.

    arguments: those of `Program.arguments`, and `parent`: the process whose end makes the system kill this one. It is
    absent if another process has forked this one, and kills it.
    """
    try:
        _run(arguments)
    except BaseException:  # noqa: BLE001 - a signal handler of a module may raise anything, at any time
        traceback.print_exc()
        _exit(1)
    _exit(0)  # threads that a module has left running must not keep the process alive


def _run(arguments: dict[str, Any]) -> None:
    if arguments["low_priority"]:
        lower_priority()
    channel = Channel(socket.socket(fileno=arguments["channel"]), takes_descriptors=True)
    set_name(PROCESS_NAME)
    if "parent" in arguments:
        end_with_parent(arguments["parent"])
    leave_terminal()
    adopt_orphans()  # so that the process that forks workers gets its daemons only after its end
    threading.Thread(target=_watch, args=(channel, os.getpid()), name="parent-watch", daemon=True).start()
    faulthandler.enable()
    _keep_from_other_programs(channel, arguments["buffers"])
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    buffers = [SharedBuffer(descriptor) for descriptor in arguments["buffers"]]
    with contextlib.suppress(EOFError, OSError):
        loop.run(channel, buffers, partial(_call, arguments["entry"]))


def _call(entry: str, request: dict[str, Any]) -> Any:
    """Call the function "module:function" with a request."""
    module, _, function = entry.partition(":")
    return getattr(importlib.import_module(module), function)(request)


def _keep_from_other_programs(channel: Channel, buffers: list[int]) -> None:
    """Close the channel in a fork that a module makes, and the channel and the buffers in a program that it runs.

    A fork that returns from the module's code would answer the same request again: the loop ends it. A program that
    replaces this one would keep the channel open, so that the server would wait for it until the time limit.
    """
    os.register_at_fork(after_in_child=channel.close)
    for descriptor in (channel.fileno(), *buffers):
        os.set_inheritable(descriptor, False)


def _watch(channel: Channel, pid: int) -> None:
    """End this process and its group when the other end of the channel is gone. pid: this process's id."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)  # a hang-up is always reported
    poll.poll()
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # not its present group: a module may have joined that of the server
    os.kill(pid, signal.SIGKILL)
