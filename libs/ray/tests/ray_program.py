"""A program that starts a Ray, as a process: its events, and the end of all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class RayProgram:
    """A process that prints events as JSON, with all processes that it starts.

    log: the file for its error messages.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command = " ".join(command)
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                start_new_session=True,
            )

    def wait_for(self, words: str) -> str:
        """Return the next line of its output that has these words. Raises RuntimeError, with the log, if it ends."""
        for line in self.process.stdout or ():
            if words in line:
                return line
        raise RuntimeError(f"`{self._command}` ended: {self._log.read_text()[-4000:]}")

    def event(self, name: str) -> dict[str, Any]:
        """Return the next event of this name. Raises RuntimeError, with the log, if the program ends before."""
        event: dict[str, Any] = json.loads(self.wait_for(f'{{"event": "{name}"'))
        return event

    def enter(self) -> None:
        """Send it an empty line."""
        if self.process.stdin is not None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def members(self, title: str = "") -> list[int]:
        """Return the ids of the processes that it started whose command line begins with a title, and of itself."""
        return [pid for pid in _members(self.process.pid) if title_of(pid).startswith(title)]

    def stop(self) -> None:
        """End it by SIGTERM. All processes that it started are gone afterwards."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        finally:
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.communicate()


def _members(session: int) -> list[int]:
    """Return the processes of a session: one that was started as its first, and all that those have started."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members


def title_of(pid: int) -> str:
    """Return the command line of a process; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
