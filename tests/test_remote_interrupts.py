"""Calls during Ctrl-C, a fork or a lack of files; and clients that are copied to another process."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from midrib.remote import AsyncClient, Client
from midrib.remote.testing import RunningServer, serving

MLP = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}
NAME = str(MLP["name"])
X = np.ones((3, 8), np.float32)
THREADS, FORKS = 4, 6


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MLP) as server:
        yield server


def fork_once() -> int:
    """Fork a child that ends at once, and return its exit code."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150, check=False)


FORKING = """
import os, threading
import numpy as np
from midrib.remote import Client

client, done, calls, errors = Client({address!r}, timeout=30.0), threading.Event(), [], []

def work():
    while not done.is_set():
        try:
            {call}
            calls.append(1)
        except BaseException as error:
            errors.append(repr(error))

threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(8):
    before = len(calls)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    while len(calls) < before + 4 and not errors:
        done.wait(0.01)
done.set()
for thread in threads:
    thread.join(60)
print(errors, [thread.is_alive() for thread in threads])
"""


@pytest.mark.parametrize(
    "call",
    [f"client.describe({NAME!r})", f"client.close(); client.embed({NAME!r}, np.ones((3, 8), 'f4'))"],
    ids=["describe", "close"],
)
def test_a_fork_loses_no_call_of_other_threads(server: RunningServer, call: str) -> None:
    """Calls that are under way are made again, and gRPC reports nothing on a closed loop."""
    done = run(FORKING.format(address=server.address, call=call))
    assert (done.stdout, done.returncode) == (f"[] {[False] * THREADS}\n", 0)
    assert "Event loop is closed" not in done.stderr


async def test_a_fork_cancels_no_call_of_an_event_loop(server: RunningServer) -> None:
    """It closes the client's own loop only."""
    client = AsyncClient(server.address, timeout=30.0)
    for _ in range(FORKS):
        calls = [asyncio.create_task(client.describe(NAME)) for _ in range(20)]
        await asyncio.sleep(0)
        assert fork_once() == 0
        assert {info.name for info in await asyncio.gather(*calls)} == {NAME}
    await client.close()


def test_ctrl_c_at_any_step_leaves_the_client_usable(server: RunningServer) -> None:
    """The thread that is interrupted holds no lock that the client's own thread waits for."""
    done = run(f"""
import random, signal, time
import numpy as np
from midrib.remote import Client

signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(1)
x, interrupted, slowest = np.ones((3, 8), np.float32), 0, 0.0
while interrupted < 1500:
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-5, 6e-3))
        for _ in range(20):
            client = Client({server.address!r}, timeout=60.0)
            client.embed({NAME!r}, x)
            client.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    slowest = max(slowest, time.monotonic() - began)
signal.setitimer(signal.ITIMER_REAL, 0)
print(client.embed({NAME!r}, x).shape, slowest < 30)
""")
    assert (done.stdout, done.returncode) == ("(3, 128) True\n", 0), done.stderr


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],
    ids=["copy", "deep", "pickle"],
)
def test_a_client_that_was_used_can_be_copied(server: RunningServer, copied: Callable[[Client], Client]) -> None:
    """Data sets that hold one are sent to worker processes; each has its own streams."""
    with Client(server.address, timeout=30.0) as client:
        want = client.embed(NAME, X)
        np.testing.assert_allclose(copied(client).embed(NAME, X), want, atol=1e-6)


def test_a_process_without_a_free_file_gets_an_error(server: RunningServer) -> None:
    """Before, the call tried to start an event loop for ever. It succeeds once there are files again."""
    done = run(f"""
import os, resource
from midrib.remote import Client
from midrib.wire import UnavailableError

client = Client({server.address!r}, timeout=30.0)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
next_free = os.open("/", os.O_RDONLY)
os.close(next_free)
resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
try:
    client.list()
except UnavailableError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(len(client.list()))
""")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["1"]), done.stderr
    assert "Too many open files" in done.stdout


def test_a_call_that_could_not_begin_is_not_made_later(server: RunningServer) -> None:
    """Its rows would stay in memory until the next call, and the server would compute them for nobody."""
    done = run(f"""
import os, resource
import numpy as np
from midrib.remote import Client
from midrib.wire import UnavailableError

client = Client({server.address!r}, timeout=30.0)
client.embed({NAME!r}, np.ones((3, 8), np.float32))
if os.fork() == 0:  # this closes the event loop
    os._exit(0)
os.wait()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
next_free = os.open("/", os.O_RDONLY)
os.close(next_free)
resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
try:
    client.embed({NAME!r}, np.ones((3, 8), np.float32))
except UnavailableError:
    [session] = client._sessions._sessions.values()
    print(session.queue.busy())
""")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_daemon_threads_that_call_do_not_delay_the_exit(server: RunningServer) -> None:
    """They end with the process, in silence."""
    done = run(f"""
import threading
import numpy as np
from midrib.remote import Client

client, called = Client({server.address!r}, timeout=30.0), threading.Event()

def call():
    while True:
        client.embed({NAME!r}, np.ones((3, 8), np.float32))
        client.describe({NAME!r})
        called.set()

for _ in range(4):
    threading.Thread(target=call, daemon=True).start()
called.wait(60)
""")
    assert (done.returncode, done.stdout) == (0, "")
