"""Start a server process, call it by the client that needs no torch, and stop it.

python examples/serve_and_ask.py
"""

# ruff: noqa: T201, S603 - a program that prints, and runs `midrib`

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from midrib.remote import Client
from midrib.wire import MidribError

PERCEPTRON = "template/classification/mlp-128"


@contextmanager
def server(*backbones: str) -> Iterator[str]:
    """Serve backbones on a free loopback port and yield the address; stop the server by SIGTERM."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", *backbones, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            events = map(json.loads, process.stdout or ())
            yield next(event["address"] for event in events if event["event"] == "ready")
        finally:
            process.terminate()


def ask(address: str) -> None:
    """Print the answers to a batch, to a stream of batches, and to a mistake."""
    rows = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 8)
    with Client(address) as client:
        for served in client.list():
            print(f"served: {served.name}, {served.num_features} features, revision {served.revision[:12]}")
        features = client.embed(PERCEPTRON, rows)
        print(f"a batch: {rows.shape} -> {features.shape}")
        results = client.embed_stream(PERCEPTRON, (rows for _ in range(100)))  # in order; read only a little ahead
        print(f"a stream: {sum(len(result) for result in results)} rows")
        try:
            client.embed(PERCEPTRON, rows[:, :5])
        except MidribError as error:
            print(f"a mistake: {error.reason}: {error}")


def main() -> None:
    """Serve a small perceptron, and call it."""
    with server(f"{PERCEPTRON}?num_features=8") as address:
        ask(address)


if __name__ == "__main__":
    main()
