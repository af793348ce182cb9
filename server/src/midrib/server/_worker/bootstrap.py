"""The first steps of a worker process, before it imports torch or any module of a user."""

from __future__ import annotations

import contextlib
import ctypes
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
from typing import Any

from midrib.server._worker import loop
from midrib.server._worker.channel import Channel
from midrib.server._worker.shared_buffer import SharedBuffer

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
# The name of a worker in `ps` and `top`, of 15 characters at most.
PROCESS_NAME = "midrib-worker"


def main(arguments: dict[str, Any]) -> None:
    """Run a worker until the server's process closes the channel, or dies.

    arguments: those of `Program.arguments`, and `parent`: the process with whose end the system kills this one. It is
    absent if another process has forked this one: that process kills it then.
    """
    try:
        _run(arguments)
    except BaseException:  # noqa: BLE001 - a signal handler of a module may raise anything, at any time
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # threads that a module has left running must not keep the process alive


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose parents have ended, such as daemons. Linux only."""
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)


def _run(arguments: dict[str, Any]) -> None:
    channel = Channel(socket.socket(fileno=arguments["channel"]), takes_descriptors=True)
    _control_process(_PR_SET_NAME, PROCESS_NAME.encode())
    if "parent" in arguments:
        _end_with_parent(arguments["parent"])
    adopt_orphans()  # so that the process that forks workers gets its daemons only after its end
    threading.Thread(target=_watch, args=(channel,), name="parent-watch", daemon=True).start()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    buffers = [SharedBuffer(descriptor) for descriptor in arguments["buffers"]]
    module, _, function = arguments["entry"].partition(":")
    with contextlib.suppress(EOFError, OSError):
        loop.run(channel, buffers, lambda request: getattr(importlib.import_module(module), function)(request))


def _end_with_parent(parent: int) -> None:
    _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _control_process(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _watch(channel: Channel) -> None:
    """End this process and those that it started when the other end of the channel is gone."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)  # a hang-up is always reported
    poll.poll()
    os.killpg(0, signal.SIGKILL)
