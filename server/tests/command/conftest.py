"""The command `midrib`, run in the test's process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from midrib.server.cli import main


@dataclass(frozen=True)
class Done:
    """The exit status and the output of a command that ended."""

    returncode: int
    stdout: str
    stderr: str


Midrib: TypeAlias = Callable[..., Done]


@pytest.fixture()
def midrib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Midrib:
    """Run the command in this process, because starting one costs seconds."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["midrib", *arguments])
        with pytest.raises(SystemExit, match=r"^(\d+|None)$") as ended:  # the caller checks the status
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run
