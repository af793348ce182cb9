"""Run `midrib serve` as a child process, for the commands that need a server while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_STOP_S = 60.0


class ServerProcess(NamedTuple):
    """A running server process.  url: the URL of the backbone that it serves."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def server_process(backbone: str, *options: str, **environment: str) -> Iterator[ServerProcess]:
    """Serve one backbone on a free loopback port, ready on entry and ended by SIGTERM on exit, by SIGKILL for Ctrl-C.

    backbone, options: arguments of `midrib serve`.  environment: variables that are added to this process's.
    Raises RuntimeError if it ends before it is ready; its stderr, which this process shares, says why.
    """
    command = [sys.executable, "-m", "midrib.remote.cli", "serve", backbone, *options, "--port", "0", "--json"]
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:  # noqa: S603 - ours
        try:
            yield ServerProcess(_url_when_ready(process), process)
        except KeyboardInterrupt:  # nobody waits for its answers
            process.kill()
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_S)


def _url_when_ready(process: subprocess.Popen[str]) -> str:
    """Return the server's URL once it is ready. Raises RuntimeError if the server ends before."""
    for line in process.stdout or ():
        event = json.loads(line)
        if event["event"] == "ready":
            return str(event["backbones"][0]["url"])
    raise RuntimeError(f"the server ended with status {process.wait()} before it was ready: its output above says why")
