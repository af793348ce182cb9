"""The same batches three ways: in a loop, through the engine without a wire, and over gRPC from another process."""

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

# In flight at a time: so many batches, and more where they are small, as calls are.
_BATCHES: Final = 4
_ROWS: Final = 64
_HERE: Final = Path(__file__).parent


class Route(Protocol):
    """Gives the features of batches."""

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """The features of each batch; it reads ahead."""
        ...


class Loop:
    """The module in a loop."""

    def __init__(self, model: str, device: str, dtype: str) -> None:
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self._module = load_backbone(NAMES[model]).module.eval().to(self._device, self._dtype)

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """With torch's own number of threads, on a CPU."""
        return in_loop(self._module, batches, self._device, self._dtype)


class Engine:
    """The server's batcher and replica in this process, without a wire."""

    def __init__(self, running: RunningServer, model: str) -> None:
        self._running = running
        self._request = EmbedRequest(backbone=NAMES[model])

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Each batch is one item, handed over on the server's own loop. They come once all are done, in any order."""
        left = iter(batches)
        first = next(left)
        callers = max(_BATCHES, _ROWS // len(first))
        return iter(self._running.run(self._all(itertools.chain([first], left), callers), timeout=600.0))

    async def _all(self, batches: Iterator[Array], callers: int) -> list[Array]:
        results: list[Array] = []

        async def one() -> None:
            for batch in batches:
                embedded = await self._running.server.embedder.embed(
                    self._request, Caller(flow="benchmark", waits_for_room=True), tensor=batch
                )
                results.append(embedded.features)

        await asyncio.gather(*(one() for _ in range(callers)))
        return results


class Served:
    """`midrib serve` in a process of its own, and this process's `Client`."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._name = NAMES[model]

    def results(self, batches: Iterable[Array]) -> Iterator[Array]:
        """By `embed_stream`."""
        return self._client.embed_stream(self._name, batches)


@contextmanager
def engine(model: str, settings: dict[str, Any]) -> Iterator[Engine]:
    """The engine, loaded and warm."""
    with serving(NAMES[model], **{"threads": None, **settings}) as running:
        yield Engine(running, model)


@contextmanager
def served(model: str, settings: dict[str, Any]) -> Iterator[Served]:
    """A server process, loaded and warm."""
    path = os.pathsep.join(filter(None, [str(_HERE), str(SERVING), os.environ.get("PYTHONPATH")]))
    variables = {f"MIDRIB_{name.upper()}": str(value) for name, value in settings.items()}
    with server_process(NAMES[model], "--import", "models", PYTHONPATH=path, **variables) as (url, _):
        yield Served(Client(url.removesuffix(f"/{NAMES[model]}"), timeout=300.0), model)
