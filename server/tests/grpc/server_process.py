"""A `midrib serve` in another process, whose memory and log a test can read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from midrib.server._admission.tokens import Scope, new_token
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

NAME = "template/classification/mlp-128"
GOOD = embedding_pb2.EmbedRequest(
    backbone=NAME, input=embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
)


class ServerProcess:
    """`midrib serve` with a token, in another process, with few file descriptors."""

    FILES = 200

    def __init__(self, folder: Path) -> None:
        self.secret, entry = new_token("tenant", [Scope.EMBED, Scope.READ])
        self._log = folder / "log.txt"
        (folder / "tokens.toml").write_text(entry)
        settings = {"TOKENS": str(folder / "tokens.toml"), "MAX_CONNECTION_STREAMS": "8", "HTTP_PORT": "0"}
        with self._log.open("wb") as log:
            # By a shell: code between fork and exec may deadlock in a process with threads.
            limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self.FILES)]
            served = ["serve", f"{NAME}?num_features=2", "--port", "0", "--json"]
            self.process = subprocess.Popen(
                [*limited, sys.executable, "-m", "midrib.server.cli", *served],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **{f"MIDRIB_{name}": value for name, value in settings.items()}},
            )
        assert self.process.stdout is not None
        loading, ready = (json.loads(self.process.stdout.readline()) for _ in range(2))
        self.address, self.http = ready["address"], loading["http"]

    def embed(self) -> list[int]:
        """Return the shape of an embedding, by a valid call on a new connection."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            bearer = [("authorization", f"Bearer {self.secret}")]
            return list(stub.Embed(GOOD, timeout=30, metadata=bearer, wait_for_ready=True).embedding.shape)

    @property
    def mebibytes(self) -> float:
        """The resident memory of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(dict(line.split(":", 1) for line in status.splitlines())["VmRSS"].split()[0]) / 1024

    @property
    def log(self) -> str:
        """The text that the server has logged."""
        return self._log.read_text()

    def stop(self) -> int:
        """End the server by SIGTERM and return its status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status
