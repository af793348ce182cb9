"""Each command prints a line before it does anything slow, and Ctrl-C ends it at once, also while it imports torch."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from midrib.remote._command.responsive import end_soon_after_ctrl_c, ended_by_ctrl_c, say_if_slow

COMMAND = [sys.executable, "-m", "midrib.remote.cli"]


def started(*arguments: str) -> subprocess.Popen[str]:
    """Return a running command."""
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str], stream: str) -> str:
    pipe = process.stdout if stream == "stdout" else process.stderr
    assert pipe is not None
    return pipe.readline().strip()


@pytest.fixture()
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "stream", "line"),
    [
        pytest.param(["demo"], "stdout", "importing torch and Lightning ...", id="demo"),
        pytest.param(
            ["train", "--backbone", "efficientnet-lite0", "--data", "{folder}"],
            "stderr",
            "training a head on efficientnet-lite0 ...",
            id="train",
        ),
        pytest.param(["predict", "{folder}/head.safetensors", "{folder}"], "stderr", "loading ", id="predict"),
    ],
)
def test_ctrl_c_ends_the_import_of_torch(tmp_path: Path, arguments: list[str], stream: str, line: str) -> None:
    """The line comes before the import, which the system ends, without a traceback."""
    (tmp_path / "head.safetensors").touch()
    with started(*(argument.format(folder=tmp_path) for argument in arguments)) as process:
        assert first_line(process, stream).startswith(line)
        process.send_signal(signal.SIGINT)
        rest = "".join(process.communicate(timeout=20))
    assert (process.returncode, rest) == (-signal.SIGINT, "")


# Presses Ctrl-C when the command imports a module.
_INTERRUPTED_IMPORT = """
import os, signal, sys
module = sys.argv[1]
class Interrupt:
    @staticmethod
    def find_spec(name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
from midrib.remote.__main__ import main
sys.argv = ["midrib", "list"]
main()
"""


@pytest.mark.parametrize(
    "module", ["midrib.remote.cli", "typer", "midrib.remote._command.app", "midrib.remote._command.listing"]
)
def test_ctrl_c_ends_the_start_of_the_command(module: str) -> None:
    """Without a traceback, also in the first tenth of a second."""
    command = [sys.executable, "-c", _INTERRUPTED_IMPORT, module]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert (process.stdout, process.stderr.strip()) in (("", ""), ("", "Aborted."))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["list", "--server", "grpc://{address}"], "asking grpc://{address} ...", id="list"),
        pytest.param(["describe", "grpc://{address}/some"], "asking grpc://{address} ...", id="describe"),
        pytest.param(
            ["unload", "some", "--server", "grpc://{address}"], "unloading some at grpc://{address}", id="unload"
        ),
        pytest.param(
            ["load", "some", "--server", "grpc://{address}"], "loading some at grpc://{address} ...", id="load"
        ),
        pytest.param(["doctor", "grpc://{address}/some"], "checking grpc://{address}/some ...", id="doctor"),
        pytest.param(["status", "{address}"], "reading http://{address}/metrics", id="status"),
    ],
)
def test_a_command_prints_a_line_while_a_server_is_silent(silent: str, arguments: list[str], line: str) -> None:
    """Ctrl-C ends the command meanwhile."""
    with started(*(argument.format(address=silent) for argument in arguments)) as process:
        assert line.format(address=silent) in first_line(process, "stderr")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)


def test_the_doctor_prints_each_verdict_as_soon_as_it_knows_it(silent: str) -> None:
    """The name, the address and the connection are checked; gRPC is waited for."""
    with started("doctor", f"grpc://{silent}/some", "--timeout", "60") as process:
        checks = [first_line(process, "stdout").split()[1] for _ in range(4)]
        running = process.poll() is None
        process.send_signal(signal.SIGINT)
    assert checks == ["address", "resolve", "tcp", "tls"]
    assert running


def test_a_fast_command_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    """The line is for those that take longer than a moment."""
    with say_if_slow("asking ..."):
        pass
    assert capsys.readouterr().err == ""


# Fills the pipe of its stdout, and has more to write.
_UNREAD = """
import contextlib, os, signal, sys
from midrib.remote._command.responsive import end_soon_after_ctrl_c
end_soon_after_ctrl_c()
os.set_blocking(1, False)
with contextlib.suppress(BlockingIOError):
    while True:
        os.write(1, bytes(4096))
os.set_blocking(1, True)
sys.stdout = open(1, "w", buffering=4096, closefd=False)
print("more", end="")
print("full", file=sys.stderr, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_another_handler_of_ctrl_c_stays(handler: signal.Handlers) -> None:
    """That of `nohup`, or of a program that runs the command."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with ended_by_ctrl_c():
            inside = signal.getsignal(signal.SIGINT)
        end_soon_after_ctrl_c()
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (inside, after) == (handler, handler)


def test_ctrl_c_ends_a_command_whose_output_is_not_read() -> None:
    """A pager stops reading when its page is full, and Ctrl-C does not end it."""
    with subprocess.Popen([sys.executable, "-c", _UNREAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(10)
        finally:
            process.kill()
    assert status in (130, -signal.SIGALRM)
