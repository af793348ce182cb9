"""Hedging: an item that one server is slow to answer is sent to another as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.remote import RemoteBackbone
from midrib.remote.testing import serving

NAME = "test/numbers/twice"
ROWS = 8 * 1024  # eight messages: more than one server's window


class Twice(nn.Module):
    """Doubles its rows, once `opened` is set; says that it was reached."""

    def __init__(self, reached: threading.Event, opened: threading.Event) -> None:
        super().__init__()
        self.reached, self.opened = reached, opened

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows >= 1000).all()):  # not those of the loading's own checks
            self.reached.set()
            self.opened.wait(60)
        return rows * 2


def new_registry(module: Twice) -> Registry:
    registry = Registry("test")
    registry(lambda: (module, 2), name="twice", namespace="test/numbers", input=TensorInput((2,)), num_features=2)
    return registry


@pytest.fixture()
def addresses() -> Iterator[str]:
    """A server that never answers, and one that waits until the other was called."""
    called, never = threading.Event(), threading.Event()
    stuck, good = Twice(called, never), Twice(threading.Event(), called)
    with serving(NAME, registry=new_registry(stuck)) as first, serving(NAME, registry=new_registry(good)) as second:
        yield f"{first.address},{second.address}"
        never.set()


X = 1000 + torch.arange(2.0 * ROWS).reshape(ROWS, 2)


def test_the_other_server_answers_for_a_stuck_one(addresses: str) -> None:
    """Long before it counts as silent; every row comes once, in order."""
    backbone = RemoteBackbone(f"grpc://{addresses}/{NAME}", timeout=600.0, hedge_s=0.1)
    assert torch.equal(backbone(X), 2 * X)
    assert backbone.stall.hedged > 0


def test_it_does_so_for_items_that_were_queued_before_any_stream_was_open(addresses: str) -> None:
    """Connecting takes far longer than `hedge_s`."""
    backbone = RemoteBackbone(f"grpc://{addresses}/{NAME}", timeout=600.0, hedge_s=1e-4)
    assert torch.equal(backbone(X), 2 * X)
