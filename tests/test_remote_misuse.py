"""Calls while another thread closes the client, a client per request, calls at exit and in signal handlers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from midrib.remote import Client
from midrib.remote._connect.event_loop import Runtime
from midrib.remote.testing import RunningServer, serving

MLP = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}
NAME = str(MLP["name"])
X = np.ones((3, 8), np.float32)
THREADS, CALLS = 8, 100


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MLP) as server:
        yield server


def in_threads(call: Callable[[], tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the results of THREADS threads that make CALLS calls each; a call that raises has no result."""
    results: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: results.extend(call() for _ in range(CALLS))) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def close_until(client: Client, done: threading.Event) -> None:
    while not done.wait(0.01):
        client.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_closing_loses_no_call_of_other_threads(server: RunningServer) -> None:
    """Their items are sent again on new streams."""
    client, done = Client(server.address, timeout=30.0), threading.Event()
    closing = threading.Thread(target=close_until, args=(client, done))
    closing.start()
    results = in_threads(lambda: client.embed(NAME, X).shape)
    done.set()
    closing.join()
    assert results == [(3, 128)] * THREADS * CALLS


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_client_per_request_loses_no_call(server: RunningServer) -> None:
    """As a web service makes them; the process's clients of one function share their streams."""

    def request() -> tuple[int, ...]:
        with Client(server.address, timeout=30.0) as client:
            return client.embed(NAME, X).shape

    assert in_threads(request) == [(3, 128)] * THREADS * CALLS


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_call_at_the_interpreters_exit_is_refused_at_once(server: RunningServer, used: bool) -> None:
    """In __del__ and in an exit handler: the process neither hangs nor crashes, and the error says what is wrong."""
    done = run(f"""
import numpy as np
from midrib.remote import Client

class Holder:
    def __init__(self):
        self.client = Client({server.address!r}, timeout=30.0)
    def call(self):
        return self.client.embed({NAME!r}, np.ones((3, 8), np.float32)).shape
    def __del__(self):
        try:
            print("in __del__:", self.call(), flush=True)
        except Exception as error:
            print("in __del__:", error, flush=True)

holder = Holder()
print(holder.call() if {used} else "unused", flush=True)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == ("(3, 128)" if used else "unused")
    assert "the interpreter is exiting" in done.stdout


def test_a_call_inside_a_signal_handler(server: RunningServer) -> None:
    """The handler interrupts a call of the same thread, in any of its steps, and both get their rows."""
    done = run(f"""
import signal
import numpy as np
from midrib.remote import Client

client = Client({server.address!r}, timeout=30.0)
call = lambda *_: client.embed({NAME!r}, np.ones((3, 8), np.float32)).shape
handled = []

def handle(*_):
    handled.append(call())
    signal.setitimer(signal.ITIMER_REAL, 0.003)

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.003)
shapes = {{call() for _ in range(500)}}
signal.setitimer(signal.ITIMER_REAL, 0)
print(shapes, len(handled) > 10, set(handled))
""")
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "{(3, 128)} True {(3, 128)}")


def test_a_call_that_comes_just_before_another_wakes_the_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler may: its thread cannot wake the connection before this call has returned."""
    client = Client(server.address, timeout=10.0)
    shapes: list[tuple[int, ...]] = []
    interruptions: list[Callable[[], None]] = [lambda: shapes.append(client.embed(NAME, X).shape)]
    soon = Runtime.soon

    def interrupted(runtime: Runtime, callback: Callable[[], object]) -> None:
        for interrupt in interruptions[:]:
            interruptions.clear()
            interrupt()
        soon(runtime, callback)

    with client:
        client.embed(NAME, X)
        monkeypatch.setattr(Runtime, "soon", interrupted)
        shapes.append(client.embed(NAME, X).shape)
    assert shapes == [(3, 128), (3, 128)]
