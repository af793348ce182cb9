"""`AsyncClient` over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote import AsyncClient
from midrib.server.testing import RunningServer
from midrib.wire import Array, InvalidInputError

pytestmark = pytest.mark.usefixtures("route")
NAME = "test/numbers/mlp"
WIDTH = 8
RNG = np.random.default_rng(0)
REGISTRY = Registry("test")


@REGISTRY(name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=32)
def mlp() -> tuple[nn.Module, int]:
    """The same weights wherever it is loaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh()).eval(), 32


def local(x: Array) -> Array:
    array: Array = mlp()[0](torch.from_numpy(x)).detach().numpy()
    return array


def rows(count: int) -> Array:
    return RNG.standard_normal((count, WIDTH), dtype=np.float32)


async def test_concurrent_tasks_get_their_own_rows(server: RunningServer) -> None:
    """Tasks that call at once travel together, and each gets its own features."""
    inputs = [rows(1 + index % 3) for index in range(100)]
    async with AsyncClient(server.address) as client:
        outputs = await asyncio.gather(*(client.embed(NAME, x) for x in inputs))
    np.testing.assert_allclose(np.concatenate(outputs), local(np.concatenate(inputs)), atol=1e-5)


async def test_a_bad_row_fails_only_its_own_caller(server: RunningServer) -> None:
    """Rows of different shapes are never joined, so that only the caller who sent the row gets the error."""
    good, bad = rows(1), np.zeros((1, WIDTH + 1), np.float32)
    async with AsyncClient(server.address) as client:
        outcomes = await asyncio.gather(*(client.embed(NAME, x) for x in (good, bad, good)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [np.ndarray, InvalidInputError, np.ndarray]


async def test_equal_inputs_in_flight_have_separate_results(server: RunningServer) -> None:
    """Each caller still gets features that it may write to."""
    x = rows(1)
    async with AsyncClient(server.address) as client:
        first, second = await asyncio.gather(client.embed(NAME, x), client.embed(NAME, x.copy()))
    first[:] = 0
    np.testing.assert_allclose(second, local(x), atol=1e-5)


async def test_a_cancelled_call_leaves_the_client_usable(server: RunningServer) -> None:
    """Cancelling a task ends its call and no other."""
    async with AsyncClient(server.address) as client:
        await client.describe(NAME)
        task = asyncio.create_task(client.embed(NAME, rows(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError, match="^$"):
            await task
        x = rows(2)
        np.testing.assert_allclose(await client.embed(NAME, x), local(x), atol=1e-5)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["iterable", "async-iterable"])
async def test_a_stream_comes_back_in_order(server: RunningServer, asynchronous: bool) -> None:
    """Batches may come from a plain or an asynchronous source."""
    batches = [rows(3) for _ in range(150)]

    async def source() -> AsyncIterator[Array]:
        for batch in batches:
            yield batch

    async with AsyncClient(server.address) as client:
        stream = client.embed_stream(NAME, source() if asynchronous else batches)
        got = [features async for features in stream]
    np.testing.assert_allclose(np.concatenate(got), local(np.concatenate(batches)), atol=1e-5)


async def test_a_progress_bar_is_shown_on_request(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the bar of the synchronous client."""
    async with AsyncClient(server.address) as client:
        got = [features async for features in client.embed_stream(NAME, [rows(2)] * 5, progress=True)]
    assert (len(got), "5/5" in capsys.readouterr().err) == (5, True)


def test_one_client_serves_several_loops(server: RunningServer) -> None:
    """The streams live on a loop of the library's own, so no caller's loop owns them."""
    client = AsyncClient(server.address)
    x = rows(2)
    outputs = [asyncio.run(client.embed(NAME, x)) for _ in range(2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])


async def test_list_and_describe_agree(server: RunningServer) -> None:
    """The same descriptions as the synchronous client's."""
    async with AsyncClient(server.address) as client:
        assert await client.list() == [await client.describe(NAME)]
