"""LitServe: uvicorn in front, a worker process for each model, batches by size or time. JSON in, bytes out."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
from bench_models import Model
from fastapi import Response


class Embed(litserve.LitAPI):
    """One model on its path. LitServe takes JSON requests, so the rows travel as base64."""

    def __init__(self, name: str) -> None:
        rows = 64 if name == "mlp" else 16
        super().__init__(max_batch_size=rows, batch_timeout=0.002, api_path=f"/{name}")
        self._name = name

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model in the worker process."""
        self._model = Model(self._name)

    def decode_request(self, request: dict[str, str], **_: Any) -> bytes:
        """Return the rows of a request."""
        return base64.b64decode(request["rows"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Return the list: `Model` joins it."""
        return inputs

    def predict(self, batch: list[bytes], **_: Any) -> list[bytes]:
        """Compute a batch."""
        return self._model(batch)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Return one answer per request."""
        return output

    def encode_response(self, output: bytes, **_: Any) -> Response:
        """Return the features as raw bytes."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    port, *names = sys.argv[1:]
    server = litserve.LitServer([Embed(name) for name in names], accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
