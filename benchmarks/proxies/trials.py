"""The trials of one proxy: each counts the calls that failed, and the rows that differ from those of a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from proxies import Proxy
from setup import MLP, Server
from training import Training

from midrib.remote import AsyncClient, Client
from midrib.wire import MidribError

TIMEOUT_S: Final = 60.0  # three servers load one after the other before the last trial ends
CALLERS: Final = 4
_LONG_S: Final = 70.0  # longer than the time-outs of nginx, HAProxy and Traefik
_SPREAD_S: Final = 12.0
_AT_ONCE: Final = 300  # more streams than each proxy permits on one connection


@dataclass
class Outcome:
    """The calls of one trial. slowest_s: the longest time that a call took."""

    calls: int = 0
    wrong: int = 0
    slowest_s: float = 0.0
    errors: list[str] = field(default_factory=list)

    def count(self, call: Callable[[], bool]) -> None:
        """Make a call that returns whether its rows are right."""
        began = time.monotonic()
        try:
            self.wrong += not call()
        except MidribError as error:
            self.errors.append(f"{type(error).__name__}: {error}"[:160])
        self.calls += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


class Trials:
    """The trials of one proxy, through one address."""

    def __init__(self, proxy: Proxy, servers: list[Server]) -> None:
        self._proxy = proxy
        self._servers = servers
        self._rows = np.random.default_rng(0).standard_normal((64, 784), np.float32)
        with Client(servers[0].address) as client:
            self._expected = client.embed(MLP, self._rows)

    def run(self, settings: str) -> Iterator[tuple[str, Outcome]]:
        """Yield each trial's name and outcome; fewer trials with TLS and with small limits."""
        yield "100 unary calls", self._unary()
        yield f"{_AT_ONCE} unary calls at once", asyncio.run(self._at_once())
        yield "a stream of 300 batches (60 MB)", self._stream()
        yield "5 calls of 16,384 rows (51 MB)", self._large()
        yield "100 steps of a training, with gradients", self._train(range(100))
        yield "5 steps of a training, with pauses of 3 s", self._train(_pauses(5, 3.0))
        if settings in ("snippet", "defaults"):
            yield from self._long()
        yield f"{CALLERS} callers, a server drains and returns", self._callers(self._drain)
        yield "a training, a server drains and returns", self._train_during(self._drain)
        yield f"{CALLERS} callers, the proxy restarts", self._callers(self._restart_proxy)
        yield "a training, the proxy restarts", self._train_during(self._restart_proxy)
        yield "a training, a server runs a tenth of the time", self._train_during(self._slow_down)
        yield "a training, all servers are gone for 5 s", self._train_during(self._restart_servers)
        if settings in ("snippet", "defaults"):
            yield f"{CALLERS} callers, a server runs a tenth of the time", self._callers(self._slow_down)
            yield f"{CALLERS} callers, all servers are gone for 5 s", self._callers(self._restart_servers)

    def spread(self, connections: int) -> tuple[Outcome, list[float]]:
        """Return large calls of one process with some connections, and each server's share of the CPU time."""
        before = [server.cpu_s() for server in self._servers]
        outcome = self._callers(lambda: time.sleep(_SPREAD_S), connections=connections, repeats=64)
        used = [server.cpu_s() - earlier for server, earlier in zip(self._servers, before, strict=True)]
        return outcome, [seconds / sum(used) for seconds in used]

    def _unary(self) -> Outcome:
        outcome = Outcome()
        with self._client() as client:
            for _ in range(100):
                outcome.count(lambda: client.describe(MLP).name == MLP)
        return outcome

    async def _at_once(self) -> Outcome:
        outcome, began = Outcome(calls=_AT_ONCE), time.monotonic()
        async with AsyncClient(self._proxy.address, timeout=TIMEOUT_S, tls=self._proxy.roots) as client:
            infos = await asyncio.gather(*(client.describe(MLP) for _ in range(_AT_ONCE)), return_exceptions=True)
        outcome.errors = [f"{type(info).__name__}: {info}"[:160] for info in infos if isinstance(info, BaseException)]
        outcome.slowest_s = time.monotonic() - began
        return outcome

    def _stream(self) -> Outcome:
        outcome = Outcome()
        with self._client() as client:
            results = client.embed_stream(MLP, (self._rows + 0 for _ in range(300)))
            for _ in range(300):
                outcome.count(lambda: bool(np.allclose(next(results), self._expected, atol=1e-5)))
                if outcome.errors:
                    break
        return outcome

    def _large(self) -> Outcome:
        outcome, rows, expected = Outcome(), np.repeat(self._rows, 256, 0), np.repeat(self._expected, 256, 0)
        with self._client() as client:
            for _ in range(5):
                outcome.count(lambda: bool(np.allclose(client.embed(MLP, rows), expected, atol=1e-5)))
        return outcome

    def _train(self, steps: Iterable[object]) -> Outcome:
        """Train; a step is wrong if its loss is not that of the same training at a server."""
        outcome = Outcome()
        training = Training(self._proxy.address, self._rows, timeout=TIMEOUT_S, roots=self._proxy.roots)
        for _ in steps:
            outcome.count(training.step)
        outcome.wrong = training.differing(Training(self._servers[1].address, self._rows, timeout=TIMEOUT_S))
        return outcome

    def _train_during(self, disturb: Callable[[], None]) -> Outcome:
        done = threading.Event()
        with ThreadPoolExecutor() as pool:
            steps = pool.submit(self._train, iter(lambda: done.wait(0.01), True))
            time.sleep(1)
            disturb()
            time.sleep(3)
            done.set()
            return steps.result()

    def _long(self) -> Iterator[tuple[str, Outcome]]:
        with ThreadPoolExecutor() as pool:
            quiet = pool.submit(self._quiet)
            busy = self._callers(lambda: time.sleep(_LONG_S))
            yield f"{CALLERS} callers for {_LONG_S:g} s", busy
            yield "a call, 55 s of silence, a call", quiet.result()

    def _quiet(self) -> Outcome:
        outcome = Outcome()
        with self._client() as client:
            for pause_s in (55, 0):
                outcome.count(lambda: bool(np.allclose(client.embed(MLP, self._rows), self._expected, atol=1e-5)))
                time.sleep(pause_s)
        return outcome

    def calls_until(self, done: threading.Event, *, connections: int = 1, repeats: int = 1) -> Outcome:
        """Return the calls that several callers make, each by its client, until an event. repeats: of the 64 rows."""
        outcome = Outcome()
        arguments = (done, outcome, connections, repeats)
        threads = [threading.Thread(target=self._call_until, args=arguments) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcome

    def _callers(self, disturb: Callable[[], None], *, connections: int = 1, repeats: int = 1) -> Outcome:
        done = threading.Event()
        with ThreadPoolExecutor() as pool:
            calls = pool.submit(self.calls_until, done, connections=connections, repeats=repeats)
            time.sleep(1)
            disturb()
            time.sleep(3)
            done.set()
            return calls.result()

    def _call_until(self, done: threading.Event, outcome: Outcome, connections: int, repeats: int) -> None:
        rows, expected = np.repeat(self._rows, repeats, 0), np.repeat(self._expected, repeats, 0)
        with self._client(connections) as client:
            while not done.wait(0.01):
                outcome.count(lambda: bool(np.allclose(client.embed(MLP, rows), expected, atol=1e-5)))

    def _drain(self) -> None:
        self._servers[0].stop()
        time.sleep(2)
        self._servers[0].start()

    def _restart_proxy(self) -> None:
        self._proxy.stop()
        time.sleep(1)
        self._proxy.start()

    def _slow_down(self) -> None:
        for _ in range(20):
            self._servers[0].pause()
            time.sleep(0.45)
            self._servers[0].resume()
            time.sleep(0.05)

    def _restart_servers(self) -> None:
        for server in self._servers:
            server.stop()
        time.sleep(5)
        for server in self._servers:
            server.start()

    def _client(self, connections: int = 1) -> Client:
        address = f"{self._proxy.address}?connections={connections}"
        return Client(address, timeout=TIMEOUT_S, tls=self._proxy.roots)


def _pauses(steps: int, pause_s: float) -> Iterator[int]:
    """Yield the numbers of the steps, with a pause after each."""
    for step in range(steps):
        yield step
        time.sleep(pause_s)
