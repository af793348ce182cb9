"""A backbone whose worker is killed at one step of its load."""

from __future__ import annotations

import importlib
import os
import signal
import struct
from unittest.mock import patch

from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.server._worker.channel import Channel

REGISTRY = Registry("mortal")
_SETUP = "midrib.server._catalogue.device_setup"
_CALLS = {
    "is-described": "midrib.server._catalogue.local.LocalBackbone.info",
    "shares-weights": "midrib.server._catalogue.worker_entry.share_weights",
    "adopts-weights": "midrib.server._catalogue.worker_entry.parity_reference",
    "measures-threads": f"{_SETUP}.choose_threads",
    "warms-up": f"{_SETUP}.warm_up",
    "proves-parity": f"{_SETUP}.check_parity",
}


def die(*_arguments: object, **_options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reply_in_part(channel: Channel, message: bytes) -> None:
    os.write(channel.fileno(), struct.pack("<I", len(message)) + message[: len(message) // 2])
    die()


@REGISTRY(name="mortal", namespace="test/embedding", input=TensorInput((2,)), remote_arguments=("step",))
def load_mortal(step: str = "") -> tuple[nn.Module, int]:
    if step == "is-loaded":
        die()
    if step == "replies":
        patch.object(Channel, "send", reply_in_part).start()
    if step in _CALLS:
        importlib.import_module(_SETUP)
        patch(_CALLS[step], die).start()
    return nn.Linear(2, 2), 2
