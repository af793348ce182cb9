"""Streams of a client that pins no revision, before, during and after its servers are upgraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from midrib.remote import AsyncClient, Client
from midrib.remote.testing import serving
from midrib.wire import Array, RevisionMismatchError
from tests.test_remote_liveness import NAME, new_registry, rows


@pytest.fixture()
def upgrade() -> Iterator[tuple[str, Callable[[], None]]]:
    """Two servers whose features differ by a factor of 2: their address, and a function that ends the older one."""
    with ExitStack() as stack:
        leaving = stack.enter_context(ExitStack())
        old = leaving.enter_context(serving(NAME, registry=new_registry(1.0)))
        new = stack.enter_context(serving(NAME, registry=new_registry(2.0)))
        yield f"{old.address},{new.address}", leaving.close


def test_a_stream_follows_an_upgrade_that_it_did_not_see(upgrade: tuple[str, Callable[[], None]]) -> None:
    """The client remembers the older revision; a stream that has no results yet takes the one that is served."""
    address, end_older = upgrade
    with Client(address, timeout=20.0) as client:
        assert client.embed(NAME, rows(3))[0, 0] == 3
        end_older()
        assert [float(features[0, 0]) for features in client.embed_stream(NAME, [rows(3)] * 5)] == [6.0] * 5


async def test_an_asynchronous_stream_follows_as_well(upgrade: tuple[str, Callable[[], None]]) -> None:
    """Its results are in the order of its batches."""
    address, end_older = upgrade
    client = AsyncClient(address, timeout=20.0)
    assert (await client.embed(NAME, rows(3)))[0, 0] == 3
    end_older()
    stream = client.embed_stream(NAME, [rows(value) for value in range(5)])
    assert [float(features[0, 0]) async for features in stream] == [0.0, 2.0, 4.0, 6.0, 8.0]
    await client.close()


def test_a_stream_has_one_revision_and_the_next_one_follows(upgrade: tuple[str, Callable[[], None]]) -> None:
    """Results of two revisions are never mixed: the stream that has some ends with an error."""
    address, end_older = upgrade

    def batches() -> Iterator[Array]:
        yield from [rows(3)] * 100
        end_older()
        yield from [rows(3)] * 100

    with Client(address, timeout=20.0) as client:
        with pytest.raises(RevisionMismatchError, match="is at revision"):
            assert {float(features[0, 0]) for features in client.embed_stream(NAME, batches())} == {3.0}
        assert [float(features[0, 0]) for features in client.embed_stream(NAME, [rows(3)])] == [6.0]


def test_a_stream_that_pins_its_revision_does_not_follow(upgrade: tuple[str, Callable[[], None]]) -> None:
    """The error names both revisions."""
    address, end_older = upgrade
    with Client(address, timeout=5.0) as client:
        revision = client.describe(NAME).revision
        end_older()
        with pytest.raises(RevisionMismatchError, match=revision[:12]):
            list(client.embed_stream(NAME, [rows(3)], revision=revision))
