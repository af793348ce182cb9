"""Pauses of the event loop during large messages: `python benchmarks/soak/loop_gaps.py` writes loop_gaps.md.

Another process sends messages of each kind, while a task of the server's event loop wakes up every millisecond. A pause
is the time by which it wakes up late: meanwhile nobody else is served. The time that the loop's thread waits for a
processor is left out, because other programs cause it. A server of grpc.aio that takes and returns the
same bytes, and does nothing with them, shows the part of grpcio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc
import large_messages
from large_messages import ANSWER_BYTES, KINDS, REGISTRY, UNLIMITED

from midrib.server.testing import serving

_TICK_S = 0.001
_FRONTS: dict[str, dict[str, Any]] = {
    'front = "asyncio"': {"front": "asyncio", "fronts": 1},
    'front = "grpcio"': {"front": "grpcio", "fronts": 1},
}
_ECHO = "grpc.aio alone"
_LIMITS: dict[str, Any] = {"max_batch_elements": 2**24, "max_in_flight_bytes": 2**30, "max_load_s": 60}


class Subject(NamedTuple):
    """A server in this process.  run: runs a coroutine on its event loop."""

    address: str
    run: Callable[[Coroutine[Any, Any, None]], Any]


class Pauses:
    """The longest pause of an event loop since `longest_s` was set to 0, in which its thread had a processor."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        statistics = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        before, waited_before_s = time.perf_counter(), _waited_s(statistics)
        while True:
            await asyncio.sleep(_TICK_S)
            now, waited_s = time.perf_counter(), _waited_s(statistics)
            self.longest_s = max(self.longest_s, now - before - _TICK_S - (waited_s - waited_before_s))
            before, waited_before_s = now, waited_s


def _waited_s(statistics: int) -> float:
    """Return the seconds that a thread has waited for a processor, by the scheduler's statistics of it."""
    return int(os.pread(statistics, 64, 0).split()[1]) / 1e9


@contextmanager
def midrib(settings: dict[str, Any]) -> Iterator[Subject]:
    """Serve the backbones of the messages."""
    with serving("mean", "wide", "picture", registry=REGISTRY, **_LIMITS, **settings) as server:
        yield Subject(server.address, server.start)


class _Echo(grpc.GenericRpcHandler):
    """Answers every call by the number of bytes that its metadata asks for."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call."""
        size = dict(handler_call_details.invocation_metadata)[ANSWER_BYTES]
        answer = bytes(int(size))

        async def respond(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
            async for _ in requests:
                pass
            yield answer

        return grpc.stream_stream_rpc_method_handler(respond)


@contextmanager
def echo() -> Iterator[Subject]:
    """Serve by grpc.aio alone."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Any, int]:
        server = grpc.aio.server(options=UNLIMITED)
        server.add_generic_rpc_handlers([_Echo()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield Subject(f"127.0.0.1:{port}", lambda task: asyncio.run_coroutine_threadsafe(task, loop))
    asyncio.run_coroutine_threadsafe(server.stop(1), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def measure(subject: Subject, rounds: int) -> dict[str, list[float]]:
    """Return the longest pauses of each kind of message, in milliseconds: one for each round, sorted."""
    pauses = Pauses()
    task = subject.run(pauses.watch())
    command, pipe = [sys.executable, large_messages.__file__, subject.address], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as client:  # noqa: S603 - this folder's module
        results = {}
        for kind in KINDS:
            results[kind] = sorted(_pause_ms(client, pauses, kind) for _ in range(rounds))
            sys.stdout.write(f"{kind}: {results[kind][0]:.0f} ms at least\n")
        if client.stdin is not None:
            client.stdin.close()
    task.cancel()
    return results


def _pause_ms(client: subprocess.Popen[str], pauses: Pauses, kind: str) -> float:
    """Send one message. Raises RuntimeError if the client has ended."""
    if client.stdin is None or client.stdout is None:
        raise RuntimeError("the pipes of the client are missing")
    for line in (kind, "send"):
        pauses.longest_s = 0.0
        client.stdin.write(line + "\n")
        client.stdin.flush()
        if not client.stdout.readline():
            raise RuntimeError(f"the client ended with {client.wait()} while it sent {kind!r}")
        time.sleep(10 * _TICK_S)  # for the end of the call on the server
    return pauses.longest_s * 1e3


def report(results: dict[str, dict[str, list[float]]], rounds: int, load: float) -> str:
    """Return the table with its conditions."""
    lines = [
        "# The longest pause of the event loop during a message of 60 MiB\n",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, grpcio "
        f"{grpc.__version__}; client and server share the cores. Load of the machine\nat the start (1 minute): "
        f"{load:.1f}. Command: `python benchmarks/soak/loop_gaps.py --rounds {rounds}`.\n",
        f"Milliseconds: the shortest of {rounds} rounds / their median, without the time that the loop's thread waited "
        "for a processor.\nThe last column is a server of grpc.aio that takes and returns the same bytes and does "
        "nothing with them.\n",
        "| message | " + " | ".join(results) + " |",
        "|---" * (1 + len(results)) + "|",
    ]
    for kind in KINDS:
        cells = (f"{pauses[kind][0]:.0f} / {median(pauses[kind]):.0f}" for pauses in results.values())
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and write loop_gaps.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds, load = parser.parse_args().rounds, os.getloadavg()[0]
    results = {}
    for name, settings in _FRONTS.items():
        with midrib(settings) as subject:
            results[name] = measure(subject, rounds)
    with echo() as subject:
        results[_ECHO] = measure(subject, rounds)
    Path(__file__).with_suffix(".md").write_text(report(results, rounds, load))


if __name__ == "__main__":
    main()
