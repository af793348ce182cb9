"""The waiting times of training steps, in Lightning's logs: `Trainer(callbacks=[StallMonitor()])`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import pytorch_lightning as pl

from midrib.remote._stream.timing import StageTimes
from midrib.remote._torch.remote_backbone import RemoteBackbone

__all__ = ["StallMonitor"]

_LOGGED: Final = ("waiting_s", "encode_s", "wire_s", "queue_s", "compute_s", "rows")


class StallMonitor(pl.Callback):
    """Logs, for each training step, where the time of its remote items went, summed over the items.

    remote/waiting_s: queued in this process.  remote/encode_s: being encoded.  remote/wire_s: on the network.
    remote/queue_s, remote/compute_s: queued and computed on the server.  remote/rows: the rows that it embedded.
    """

    def __init__(self, prefix: str = "remote") -> None:
        self._prefix = prefix
        self._before: dict[str, StageTimes] = {}

    def on_train_batch_start(self, _: pl.Trainer, pl_module: pl.LightningModule, *__: Any) -> None:
        """Remember the times so far."""
        self._before = {name: backbone.stall for name, backbone in _remotes(pl_module)}

    def on_train_batch_end(self, _: pl.Trainer, pl_module: pl.LightningModule, *__: Any) -> None:
        """Log the times that this step added."""
        spent: dict[str, float] = dict.fromkeys(_LOGGED, 0.0)
        for name, backbone in _remotes(pl_module):
            step = asdict(backbone.stall - self._before.get(name, StageTimes()))
            spent = {key: spent[key] + step[key] for key in _LOGGED}
        pl_module.log_dict({f"{self._prefix}/{key}": value for key, value in spent.items()})


def _remotes(module: pl.LightningModule) -> list[tuple[str, RemoteBackbone]]:
    """Return one backbone for each session: those of one function share its times, and would be counted twice."""
    children = [(name, child) for name, child in module.named_modules() if isinstance(child, RemoteBackbone)]
    return list({id(child.open()): (name, child) for name, child in children}.values())
