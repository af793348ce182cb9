"""A training through a proxy: a layer in front of the remote backbone, and one behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from setup import MLP

from midrib.remote import RemoteBackbone
from midrib.wire import Array


class Training:
    """Starts from the same weights each time, and uses the same rows in each step.

    url: of the server or proxy.  rows: [64, 784].  roots: for TLS.
    """

    def __init__(self, url: str, rows: Array, *, timeout: float, roots: Path | None = None) -> None:
        torch.manual_seed(0)
        scheme = "" if "://" in url else "grpc://"
        backbone = RemoteBackbone(f"{scheme}{url}/{MLP}", timeout=timeout, tls=roots)
        self._model = torch.nn.Sequential(
            torch.nn.Linear(784, 784), backbone, torch.nn.Linear(backbone.num_features, 2)
        )
        self._optimizer = torch.optim.SGD(self._model.parameters(), 0.01)
        self._rows, self._labels = torch.from_numpy(rows), torch.arange(len(rows)) % 2
        self.losses: list[float] = []

    def step(self) -> bool:
        """Make one step and note its loss. Return True. Raises the MidribError of a call that failed."""
        self._optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self._model(self._rows), self._labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        self._optimizer.step()
        self.losses.append(loss.item())
        return True

    def differing(self, other: Training) -> int:
        """Return how many of this training's losses differ from those of the other, which makes as many steps first."""
        for _ in self.losses:
            other.step()
        return int((~np.isclose(self.losses, other.losses, rtol=1e-3)).sum())
