"""How long one costly HTTP body delays other calls of a server: `python benchmarks/soak/http_bodies.py`.

For each kind of body: its answer, and the slowest answers of /healthz meanwhile, beside those without such a body.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

MODEL = "text/embedding/wordllama-256"
SIZE = 8 * 2**20 - 4096
HEAD = b'{"model":"' + MODEL.encode() + b'","input":'
JSON = {"Content-Type": "application/json"}


def filled(element: bytes) -> bytes:
    """A list of as many equal elements as fit."""
    return HEAD + b"[" + b",".join([element] * (SIZE // (len(element) + 1))) + b"]}"


def text(element: str) -> bytes:
    """One text of as many equal parts as fit."""
    encoded = json.dumps(element, ensure_ascii=False)[1:-1].encode()
    return HEAD + b'"' + encoded * (SIZE // len(encoded)) + b'"}'


BODIES: dict[str, Callable[[], bytes]] = {
    "empty texts": lambda: filled(b'""'),
    "empty lists": lambda: filled(b"[]"),
    "token ids": lambda: filled(b"1234"),
    "lists of token ids": lambda: filled(b"[" + b",".join([b"55"] * 4000) + b"]"),
    "long numbers": lambda: filled(b"1" * 4000),
    "nulls": lambda: filled(b"null"),
    "brackets without end": lambda: HEAD + b"[" * SIZE,
    "a text of brackets": lambda: text("[,{"),
    "a text of escapes": lambda: text('\\"'),
    "a text of emoji": lambda: text("😀é"),
    "2,048 texts": lambda: HEAD + json.dumps(["word " * 100] * 2048).encode() + b"}",
}


@contextmanager
def served() -> Iterator[str]:
    """The HTTP address of a server process."""
    command = [sys.executable, "-m", "midrib.server", "serve", MODEL, "--port", "0", "--http-port", "0", "--json"]
    environment = {**os.environ, "MIDRIB_HTTP_TOKEN_IDS": "true"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:  # noqa: S603 - our own server
        try:
            address = ""
            for line in process.stdout or ():
                event = json.loads(line)
                address = event.get("http", address)
                if event["event"] == "ready":
                    yield address
                    return
            raise RuntimeError("the server ended before it was ready: its error is above")
        finally:
            process.terminate()


def pings(address: str, during: Callable[[], str]) -> tuple[str, list[float]]:
    """The result of a function, and the milliseconds of the slowest answers of /healthz while it ran."""
    milliseconds: list[float] = []
    done = threading.Event()

    def ping() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while not done.is_set():
            started = time.monotonic()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            milliseconds.append((time.monotonic() - started) * 1e3)
            time.sleep(0.002)

    thread = threading.Thread(target=ping)
    thread.start()
    result = during()
    done.set()
    thread.join()
    return result, sorted(milliseconds)[-3:]


def post(address: str, body: bytes) -> str:
    """Send a body; the status and the time of its answer."""
    connection = http.client.HTTPConnection(address, timeout=120)
    started = time.monotonic()
    connection.request("POST", "/v1/embeddings", body, JSON)
    response = connection.getresponse()
    response.read()
    return f"{response.status} after {time.monotonic() - started:.2f} s"


def quiet() -> str:
    """A second without a body."""
    time.sleep(1)
    return "-"


def main() -> None:
    """Print a row for each kind of body."""
    with served() as address:
        report = sys.stdout.write
        report("| body of 8 MiB | answer | slowest /healthz meanwhile, ms |\n|---|---|---|\n")
        for name, make in {"none": lambda: b"", **BODIES}.items():
            body = make()
            answer, slowest = pings(address, partial(post, address, body) if body else quiet)
            report(f"| {name} | {answer} | {', '.join(f'{value:.0f}' for value in slowest)} |\n")


if __name__ == "__main__":
    main()
