"""`midrib serve` in a process of its own, for the commands that need a server for a while."""

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
    """url: of the backbone that it serves."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def server_process(backbone: str, *options: str, **environment: str) -> Iterator[ServerProcess]:
    """Serve one backbone on a free loopback port, ready on entry and ended by SIGTERM on exit.

    backbone, options: what `midrib serve` takes.  environment: variables beside this process's own.
    Raises RuntimeError where it ends before it is ready; what it said itself stands above that.
    """
    command = [sys.executable, "-m", "midrib.server.cli", "serve", backbone, *options, "--port", "0", "--json"]
    variables = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:  # noqa: S603 - our own
        try:
            yield ServerProcess(_url_when_ready(process), process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_S)


def _url_when_ready(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        event = json.loads(line)
        if event["event"] == "ready":
            return str(event["backbones"][0]["url"])
    raise RuntimeError("the server ended before it was ready; its own output above says why")
