"""Midrib clients through real proxies: `python benchmarks/proxies/run.py` writes benchmarks/proxies/README.md.

It needs nginx and haproxy (`apt-get install nginx haproxy`). The configurations are the snippets of docs/scale.md, and
the same without the settings that differ from the proxy's defaults. Each trial counts the calls that failed and the
rows that differ from those of a server without a proxy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from setup import MLP, PROXIES, Proxy, Server, free_port, version

from midrib.remote import Client
from midrib.wire import MidribError

HERE = Path(__file__).parent
TIMEOUT_S = 60.0  # three servers load one after the other before the last trial ends
CALLERS = 4


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

    def run(self) -> Iterator[tuple[str, Outcome]]:
        """Yield each trial's name and outcome."""
        yield "100 unary calls", self._unary()
        yield "a stream of 300 batches (60 MB)", self._stream()
        yield "5 calls of 16,384 rows (51 MB)", self._large()
        yield f"{CALLERS} callers, undisturbed", self._callers(lambda: time.sleep(2))
        yield f"{CALLERS} callers, a server drains and returns", self._callers(self._drain)
        yield f"{CALLERS} callers, the proxy restarts", self._callers(self._restart_proxy)
        yield f"{CALLERS} callers, all servers are gone for 5 s", self._callers(self._restart_servers)

    def _unary(self) -> Outcome:
        outcome = Outcome()
        with self._client() as client:
            for _ in range(100):
                outcome.count(lambda: client.describe(MLP).name == MLP)
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

    def _callers(self, disturb: Callable[[], None]) -> Outcome:
        outcome, done = Outcome(), threading.Event()
        threads = [threading.Thread(target=self._call_until, args=(done, outcome)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        disturb()
        time.sleep(3)
        done.set()
        for thread in threads:
            thread.join()
        return outcome

    def _call_until(self, done: threading.Event, outcome: Outcome) -> None:
        with self._client() as client:
            while not done.is_set():
                outcome.count(lambda: bool(np.allclose(client.embed(MLP, self._rows), self._expected, atol=1e-5)))

    def _drain(self) -> None:
        self._servers[0].stop()
        time.sleep(2)
        self._servers[0].start()

    def _restart_proxy(self) -> None:
        self._proxy.stop()
        time.sleep(1)
        self._proxy.start()

    def _restart_servers(self) -> None:
        for server in self._servers:
            server.stop()
        time.sleep(5)
        for server in self._servers:
            server.start()

    def _client(self) -> Client:
        return Client(self._proxy.address, timeout=TIMEOUT_S)


def measure() -> Iterator[str]:
    """Yield the lines of the report."""
    yield "# Midrib clients through real proxies\n"
    versions = ", ".join(version(name) for name in PROXIES)
    yield f"{versions}; three `midrib serve` behind each, on a machine of {os.cpu_count()} cores."
    yield "Command: `python benchmarks/proxies/run.py`. `snippet` is the one of [docs/scale.md](../../docs/scale.md),"
    yield f"`defaults` the same without its time-outs and limits. Client(timeout={TIMEOUT_S:g}).\n"
    yield "| proxy | settings | trial | calls | failed | wrong rows | slowest s | first error |"
    yield "|---|---|---|---|---|---|---|---|"
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(free_port())) for _ in range(3)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in PROXIES:
            for settings in ("snippet", "defaults"):
                proxy = stack.enter_context(Proxy(name, [server.address for server in servers], settings, folder))
                for trial, outcome in Trials(proxy, servers).run():
                    line = f"| {name} | {settings} | {trial} | {outcome.calls} | {len(outcome.errors)} "
                    line += f"| {outcome.wrong} | {outcome.slowest_s:.1f} | {next(iter(outcome.errors), '')} |"
                    yield line
                proxy.stop()


def main() -> None:
    """Run every trial and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    missing = [name for name in PROXIES if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install {' '.join(missing)}")
    options.out.write_text("\n".join(measure()) + "\n")


if __name__ == "__main__":
    main()
