"""Small calls join into messages, and still every server computes some of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.remote import AsyncClient
from midrib.remote._stream.window import StreamWindow
from midrib.remote.testing import serving

NAME = "test/numbers/waiting"


class WaitsForTheOther(nn.Module):
    """Returns its rows once the other server was reached as well, or after a minute."""

    def __init__(self, reached: threading.Event, other: threading.Event) -> None:
        super().__init__()
        self.reached, self.other = reached, other

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows >= 1000).all()):  # not those of the loading's own checks
            self.reached.set()
            self.other.wait(60)
        return rows


def new_registry(module: WaitsForTheOther) -> Registry:
    registry = Registry("test")
    registry(lambda: (module, 2), name="waiting", namespace="test/numbers", input=TensorInput((2,)), num_features=2)
    return registry


@pytest.fixture()
def reached() -> tuple[threading.Event, threading.Event]:
    """Whether each of two servers has computed rows of a client."""
    return threading.Event(), threading.Event()


@pytest.fixture()
def addresses(reached: tuple[threading.Event, threading.Event]) -> Iterator[str]:
    first, second = (WaitsForTheOther(*events) for events in (reached, reached[::-1]))
    with serving(NAME, registry=new_registry(first)) as one, serving(NAME, registry=new_registry(second)) as other:
        yield f"{one.address},{other.address}"


async def test_calls_at_once_are_divided_between_the_servers(
    addresses: str, reached: tuple[threading.Event, threading.Event]
) -> None:
    """One message with all of them would leave a server without work until it is answered."""
    async with AsyncClient(addresses) as client:
        await client.describe(NAME)
        rows = [np.full((1, 2), 1000 + number, np.float32) for number in range(8)]
        answers = await asyncio.gather(*(client.embed(NAME, x=row) for row in rows))
    assert np.array_equal(answers, rows)
    assert [event.is_set() for event in reached] == [True, True]


async def test_a_lone_call_counts_no_room_of_the_servers(addresses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections look at the queue at each call, and each of them would ask all others."""
    counted: list[int] = []

    def count(_window: StreamWindow, in_flight: int) -> int:
        counted.append(in_flight)
        return 1

    monkeypatch.setattr(StreamWindow, "slots", count)
    async with AsyncClient(addresses) as client:
        row = np.ones((1, 2), np.float32)
        assert np.array_equal(await client.embed(NAME, x=row), row)
    assert counted == []
