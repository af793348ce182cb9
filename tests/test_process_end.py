"""The process of `midrib serve` ends within its grace, also if the code of a backbone hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

GRACE_S = 1
# The server's process imports this too: torch, which takes seconds to import, is for the worker.
MODULE = """
import threading, time
from midrib.backbones import BACKBONES
from midrib.registry import TensorInput

@BACKBONES(name="hangs", namespace="test/embedding", input=TensorInput((2,)))
def load_hangs(thread: bool = False):
    from torch import nn

    class Hangs(nn.Module):
        def forward(self, rows):
            if bool((rows == 13).any()):
                print("hanging", flush=True)
                time.sleep(600)
            return rows

    if thread:
        threading.Thread(target=time.sleep, args=(600,)).start()
    return Hangs(), 2
"""


@pytest.fixture(params=["process", "thread"], autouse=True)
def _workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the backbone computes."""
    monkeypatch.setenv("MIDRIB_WORKERS", request.param)


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules that the server imports."""
    (tmp_path / "hanging_backbones.py").write_text(MODULE)
    (tmp_path / "exiting.py").write_text("raise SystemExit(0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("MIDRIB_DRAIN_GRACE_S", str(GRACE_S))
    return tmp_path


def serve(backbone: str, module: str) -> subprocess.Popen[str]:
    """Start `midrib serve` with a backbone of a module."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", backbone, "--import", module, "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(server: subprocess.Popen[str], text: str) -> str:
    """Return the first line of the server's output that contains the text."""
    assert server.stdout is not None
    return next(line for line in server.stdout if text in line)


def status_after_sigterm(server: subprocess.Popen[str]) -> int:
    """Send SIGTERM; return the exit status of the process, which must end within its grace and 5 s."""
    server.send_signal(signal.SIGTERM)
    began = time.monotonic()
    server.communicate(timeout=60)
    assert time.monotonic() - began < GRACE_S + 5
    return server.returncode


@pytest.fixture()
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process of the parametrized backbone, and its address."""
    process = serve(request.param, "hanging_backbones")
    address = read_until(process, "listening on").split("listening on ")[1].split(",")[0].split(" ")[0]
    read_until(process, "ready after")
    yield process, address
    process.kill()
    process.communicate()


@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_a_forward_pass_that_hangs_does_not_keep_the_process(server: tuple[subprocess.Popen[str], str]) -> None:
    """Its caller gets UNAVAILABLE, and the process ends with status 0."""
    process, address = server
    rows = embedding_pb2.Input(tensor=encode_tensor(np.full((1, 2), 13, np.float32)))
    with grpc.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        call = stub.Embed.future(embedding_pb2.EmbedRequest(backbone="hangs", input=rows), timeout=60)
        read_until(process, "hanging")
        assert status_after_sigterm(process) == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("server", ["hangs?thread=true"], indirect=True)
def test_a_thread_of_a_module_does_not_keep_the_process(server: tuple[subprocess.Popen[str], str]) -> None:
    """Python cannot end such a thread, so the server ends the process."""
    assert status_after_sigterm(server[0]) == 0


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_an_open_health_watch_does_not_keep_the_process(server: tuple[subprocess.Popen[str], str]) -> None:
    """The stream ends with the server."""
    process, address = server
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert status_after_sigterm(process) == 0


def test_an_imported_module_that_exits_is_an_error(folder: Path) -> None:
    """`raise SystemExit(0)` in a module does not end the server with status 0."""
    server = serve("hangs", "exiting")
    output, _ = server.communicate(timeout=60)
    assert server.returncode != 0
    assert "exiting" in output
