"""Three routes for the same batches: a loop, the engine without gRPC, and a server process over gRPC."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from loop import in_loop
from models import NAMES, SERVING

from midrib.backbones import load_backbone
from midrib.remote import Client
from midrib.server._calls.requests import Caller
from midrib.server._command.server_process import server_process
from midrib.server.testing import RunningServer, serving
from midrib.v1.embedding_pb2 import EmbedRequest
from midrib.wire import Array

# The number of batches in flight, and of rows: small batches have more calls in flight.
_BATCHES: Final = 4
_ROWS: Final = 64
_HERE: Final = Path(__file__).parent


class Route(Protocol):
    """Computes the features of batches."""

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Yield the features of each batch, [rows, num_features]; it reads ahead."""
        ...


class Loop:
    """The module in a loop."""

    def __init__(self, model: str, device: str, dtype: str) -> None:
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self._module = load_backbone(NAMES[model]).module.eval().to(self._device, self._dtype)

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """On a CPU, torch chooses the number of threads."""
        return in_loop(self._module, batches, self._device, self._dtype)


class Engine:
    """The server's batcher and replica in this process, without gRPC."""

    def __init__(self, running: RunningServer, model: str) -> None:
        self._running = running
        self._request = EmbedRequest(backbone=NAMES[model])

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Each batch is one item on the server's event loop. The results are in any order, once all are done."""
        left = iter(batches)
        first = next(left)
        callers = max(_BATCHES, _ROWS // len(first))
        return iter(self._running.run(self._all(itertools.chain([first], left), callers), timeout=600.0))

    async def _all(self, batches: Iterator[Array], callers: int) -> list[Array]:
        results: list[Array] = []

        async def call_repeatedly() -> None:
            for batch in batches:
                embedded = await self._running.server.embedder.embed(
                    self._request, Caller(flow="benchmark", waits_for_room=True), source=batch
                )
                results.append(embedded.features)

        await asyncio.gather(*(call_repeatedly() for _ in range(callers)))
        return results


class Served:
    """`midrib serve` in another process, called by a `Client` in this process."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._name = NAMES[model]

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Use `embed_stream`."""
        return self._client.embed_stream(self._name, batches)


@contextmanager
def engine(model: str, settings: dict[str, Any]) -> Iterator[Engine]:
    """Start the engine: loaded and warmed up."""
    with serving(NAMES[model], **{"threads": None, **settings}) as running:
        yield Engine(running, model)


@contextmanager
def served(model: str, settings: dict[str, Any]) -> Iterator[Served]:
    """Start a server process: loaded and warmed up."""
    path = os.pathsep.join(filter(None, [str(_HERE), str(SERVING), os.environ.get("PYTHONPATH")]))
    variables = {f"MIDRIB_{name.upper()}": str(value) for name, value in settings.items()}
    with server_process(NAMES[model], "--import", "models", PYTHONPATH=path, **variables) as (url, _):
        yield Served(Client(url.removesuffix(f"/{NAMES[model]}"), timeout=300.0), model)
