"""mosec: a Rust front, a worker process for each model, batches by size or time. Raw bytes in and out."""

from __future__ import annotations

import sys

from bench_models import Model
from mosec import Runtime, Server, Worker


class Bytes(Worker):
    """A worker whose requests and answers are bytes."""

    model: str

    def __init__(self) -> None:
        super().__init__()
        self._model = Model(self.model)

    def deserialize(self, data: bytes) -> bytes:
        """Return the body unchanged."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Return the body unchanged."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Compute a batch."""
        return self._model(data)


class Mlp(Bytes):
    """W1, W2 and W5."""

    model = "mlp"


class Vit(Bytes):
    """W3 and W5."""

    model = "vit"


class MiniLm(Bytes):
    """W4."""

    model = "minilm"


if __name__ == "__main__":
    port, *names = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--timeout", "60000"]  # mosec reads them itself
    server = Server()
    server.register_runtime(
        {
            f"/{worker.model}": [Runtime(worker, max_batch_size=64 if worker is Mlp else 16, max_wait_time=2)]
            for worker in (Mlp, Vit, MiniLm)
            if worker.model in names
        }
    )
    server.run()
