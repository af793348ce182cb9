"""Every `curl` command of docs/http.md is answered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from midrib.server.testing import RunningServer, serving

PAGE = Path(__file__).resolve().parents[1] / "docs/http.md"
WRITTEN_ADDRESS = "127.0.0.1:8080"
COMMANDS = re.findall(r"^\$ (curl (?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def page_server() -> Iterator[RunningServer]:
    """A server of the backbone that the page starts."""
    with serving("text/embedding/all-minilm-l6-v2", http_port=0, warm_up_s=0.0) as running:
        yield running


def path_of(command: str) -> str:
    """Return the path of a command, as the name of its test."""
    return command.split(WRITTEN_ADDRESS)[1].split()[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
@pytest.mark.parametrize("command", COMMANDS, ids=path_of)
def test_a_command_of_the_page_is_answered(command: str, page_server: RunningServer) -> None:
    """As a reader would paste it; only the address differs."""
    code = command.replace(WRITTEN_ADDRESS, str(page_server.server.http_address))
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer.keys() & {"data", "outputs", "embedding"}, answer


def test_the_page_shows_a_call_of_each_protocol() -> None:
    """OpenAI's, the Open Inference Protocol and Connect."""
    assert len(COMMANDS) == 3
