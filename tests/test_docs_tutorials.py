"""The tutorials that use a shell run as a whole: `bash` and `python` blocks, from top to bottom."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from midrib.server.testing import serving

TUTORIALS = Path(__file__).resolve().parents[1] / "docs/tutorials"
BACKBONE = "text/embedding/all-minilm-l6-v2"


@pytest.fixture()
def environment(tmp_path: Path, child_environment: dict[str, str]) -> dict[str, str]:
    """The environment of a shell that finds `midrib` and `python`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("midrib", "-m midrib.server"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return {**child_environment, "PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}


def script(page: str) -> str:
    """Return a tutorial as one shell script. Each run of `python` blocks is one program, after all those before it."""
    programs: list[str] = []
    lines: list[str] = []
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL)
    for (language, code), (following, _) in pairwise([*blocks, ("", "")]):
        if language == "python":
            programs.append(code)
            code = "" if following == "python" else f"python - <<'PYTHON'\n{''.join(programs)}PYTHON\n"
        lines.append(code)
    return "".join(lines)


def run(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script in a folder; return its output. A command that fails ends it, and so do three minutes."""
    command = ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{code}"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=170)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output
    return output


def test_the_tutorial_for_data_engineers_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    """It runs in process, and then with the server that it names."""
    with serving(BACKBONE, warm_up_s=0.0) as server:
        code = script("data-engineer.md").replace("localhost:50051", server.address)
        run(code, tmp_path, environment)
    assert (tmp_path / "notes.parquet").is_file()


def test_the_tutorial_for_platform_engineers_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    """It starts the server, calls it, reads its metrics, rotates a token and stops it with status 0."""
    with socket.create_server(("127.0.0.1", 0)) as grpc_port, socket.create_server(("127.0.0.1", 0)) as http_port:
        ports = {"50051": str(grpc_port.getsockname()[1]), "8080": str(http_port.getsockname()[1])}
    code = script("platform-engineer.md").replace("50051", ports["50051"]).replace("8080", ports["8080"])
    assert "midrib_items_total" in run(code, tmp_path, environment)
