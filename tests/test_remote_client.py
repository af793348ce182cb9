"""`Client` over a real server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.remote import Client, RemoteBackbone, embed_files
from midrib.remote._connect import unary
from midrib.server.testing import RunningServer, serving
from midrib.wire import (
    Array,
    BackboneNotFoundError,
    InvalidInputError,
    MidribError,
    PermissionDeniedError,
    UnavailableError,
)

pytestmark = pytest.mark.usefixtures("route")
NAME = "test/numbers/mlp"
WIDTH = 8
RNG = np.random.default_rng(0)
REGISTRY = Registry("test")


@REGISTRY(name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=128)
def mlp() -> tuple[nn.Module, int]:
    """The same weights wherever it is loaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU()).eval(), 128


@pytest.fixture()
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def local(x: Array) -> Array:
    """The features of the same backbone in process."""
    array: Array = mlp()[0](torch.from_numpy(x)).detach().numpy()
    return array


def rows(count: int) -> Array:
    return RNG.standard_normal((count, WIDTH), dtype=np.float32)


@pytest.mark.parametrize("count", [0, 1, 7, 1024, 2500])
def test_any_number_of_rows_equals_the_local_backbone(client: Client, count: int) -> None:
    """Above the server's limit of rows the batch is split, and comes back whole and in order."""
    x = rows(count)
    np.testing.assert_allclose(client.embed(NAME, x), local(x), atol=1e-5)


def test_many_callers_get_their_own_rows(client: Client) -> None:
    """Small concurrent calls share messages, and each gets its own features."""
    inputs = [rows(1) for _ in range(64)]
    outputs: dict[int, Array] = {}
    threads = [
        threading.Thread(target=lambda i=i: outputs.update({i: client.embed(NAME, inputs[i])})) for i in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(
        np.concatenate([outputs[i] for i in range(64)]), local(np.concatenate(inputs)), atol=1e-5
    )


def test_an_unknown_option_is_refused(client: Client) -> None:
    """The error gives the nearest option of this method."""
    options: dict[str, Any] = {"dtpye": "float16"}
    with pytest.raises(TypeError, match="unexpected argument 'dtpye': did you mean 'dtype'"):
        client.embed(NAME, rows(1), **options)
    with pytest.raises(TypeError, match="unexpected argument 'dtpye': did you mean 'dtype'"):
        client.embed_stream(NAME, [rows(1)], **options)


def test_an_argument_of_the_client_is_refused_by_its_methods(client: Client) -> None:
    """The error says that it is an argument of the client."""
    options: dict[str, Any] = {"timeout": 5.0}
    with pytest.raises(TypeError, match=r"'timeout': it belongs to the client, for all its calls: Client"):
        client.embed(NAME, rows(1), **options)


def test_a_stream_comes_back_in_order(client: Client) -> None:
    """One result a batch, each where its batch stood; an input that is reused in place changes nothing."""
    buffer = np.zeros((3, WIDTH), np.float32)
    batches = [rows(3) for _ in range(200)]

    def reusing() -> Iterator[Array]:
        for batch in batches:
            buffer[:] = batch
            yield buffer

    got = list(client.embed_stream(NAME, reusing()))
    np.testing.assert_allclose(np.concatenate(got), local(np.concatenate(batches)), atol=1e-5)


def test_a_stream_reads_only_a_little_ahead(client: Client) -> None:
    """At most 64 batches are read before a slow consumer needs them."""
    produced: list[int] = []

    def source() -> Iterator[Array]:
        for number in range(1000):
            produced.append(number)
            yield rows(1)

    stream = client.embed_stream(NAME, source())
    next(stream)
    assert len(produced) <= 64
    stream.close()  # type: ignore[attr-defined] # it is a generator


def test_a_progress_bar_is_shown_on_request(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """It is on stderr, with the number of batches if that is known."""
    batches = [rows(2) for _ in range(5)]
    plain = list(client.embed_stream(NAME, batches))
    assert capsys.readouterr() == ("", "")
    np.testing.assert_array_equal(list(client.embed_stream(NAME, batches, progress=True)), plain)
    assert "5/5" in capsys.readouterr().err


def test_options_shape_the_features(client: Client) -> None:
    """Element type, truncation and unit length are the server's work, in this order."""
    x = rows(4)
    got = client.embed(NAME, x, dtype="float16", dimensions=16, normalize=True)
    want = local(x)[:, :16]
    assert (got.dtype, got.shape) == (np.dtype(np.float16), (4, 16))
    np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1, keepdims=True), atol=2e-3)


def test_int8_features_come_as_float32(client: Client) -> None:
    """Truncated and normalised before they are rounded to a byte each."""
    x = rows(4)
    want = client.embed(NAME, x, dimensions=16, normalize=True)
    got = client.embed(NAME, x, dtype="int8", dimensions=16, normalize=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=float(want.max()) / 254 + 1e-6)


def test_a_priority_travels_with_every_item(server: RunningServer, tmp_path: Path) -> None:
    """A client's or a backbone's priority is sent; files are bulk by default."""
    priorities: list[str] = []
    served = server.server.catalogue.entry(NAME).ready().served
    served.on_batch.append(lambda batch, *_: priorities.extend(item.priority.name for item in batch))
    Client(server.address, priority="training").embed(NAME, rows(1))
    RemoteBackbone(server.url(NAME), priority="bulk")(torch.zeros(1, WIDTH))
    np.save(tmp_path / "rows.npy", rows(1))
    embed_files(server.url(NAME), [tmp_path / "rows.npy"], tmp_path / "out.npy")
    assert priorities == ["TRAINING", "BULK", "BULK"]


def test_an_unknown_priority_is_refused(server: RunningServer) -> None:
    """The error comes before any call, and lists the priorities."""
    wrong: Any = "urgent"
    with pytest.raises(InvalidInputError, match="priority is 'urgent', expected one of interactive, training, bulk"):
        Client(server.address, priority=wrong)


def test_list_and_describe_agree(client: Client) -> None:
    """A description has the values that a client needs before its first call."""
    info = client.describe(NAME)
    assert client.list() == [info]
    assert (info.name, info.num_features, info.state, info.compute_dtype) == (NAME, 128, "ready", "float32")


def test_the_error_of_an_unknown_name_lists_similar_ones(client: Client) -> None:
    """The error is a KeyError as well, and reads as a sentence."""
    with pytest.raises(BackboneNotFoundError, match="test/numbers/mlp"):
        client.embed("test/numbers/mlq", rows(1))


def test_a_wrong_shape_is_the_callers_error(client: Client) -> None:
    """It fails that call, once, with the shape that was expected."""
    with pytest.raises(InvalidInputError, match="8"):
        client.embed(NAME, np.zeros((2, WIDTH + 1), np.float32))


def test_a_call_that_fails_does_not_fail_joined_calls(client: Client) -> None:
    """If joined rows fail, each part is sent again alone."""
    x = rows(1)
    bad = np.full((1, WIDTH), np.nan, np.float32)
    good_and_bad = [client.embed_stream(NAME, iter([x])), client.embed_stream(NAME, iter([bad]))]
    np.testing.assert_allclose(next(good_and_bad[0]), local(x), atol=1e-5)


WITHOUT_TORCH = """
import asyncio, sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np
from midrib.remote import AsyncClient, Client

address, name = sys.argv[1:]
x = np.ones((2, 8), np.float32)

async def awaited():
    async with AsyncClient(address) as client:
        return await client.embed(name, x)

with Client(address) as client:
    assert (client.embed(name, x) == asyncio.run(awaited())).all()
    print(len(list(client.embed_stream(name, [x] * 3))), len(client.list()))
"""


def test_clients_work_without_torch(server: RunningServer) -> None:
    """Neither client imports it, whatever is called."""
    command = [sys.executable, "-c", WITHOUT_TORCH, server.address, NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("3 1", "")


def test_one_input_is_expected(client: Client) -> None:
    """No input, or several, is an error before any call."""
    with pytest.raises(InvalidInputError, match="got nothing, expected one input"):
        client.embed(NAME)
    with pytest.raises(InvalidInputError, match="got x and texts"):
        client.embed(NAME, rows(1), texts=["a"])


def test_an_administrator_loads_and_unloads() -> None:
    """A server with `admin` allows it; the arguments keep their types."""
    name = "template/classification/mlp-128"
    with serving(admin=True) as server, Client(server.address) as client:
        info = client.load(name, num_features=5)
        assert client.embed(name, np.zeros((1, 5), np.float32)).shape == (1, info.num_features)
        client.unload(name)
        with pytest.raises(MidribError, match="mlp-128"):
            client.embed(name, np.zeros((1, 5), np.float32))


def test_loading_is_refused_without_permission(client: Client) -> None:
    """The server refuses it for every client."""
    with pytest.raises(PermissionDeniedError, match="admin"):
        client.load("template/classification/mlp-128", num_features=5)


def test_a_missing_server_is_a_clear_error_soon() -> None:
    """The error names the address and how to start a server, inside the deadline."""
    with (
        Client("127.0.0.1:9", timeout=1.0) as client,
        pytest.raises(UnavailableError, match="no server answers at 127.0.0.1:9.*midrib serve"),
    ):
        client.list()


def test_each_address_is_tried_before_a_missing_server_is_an_error(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds even if the first addresses take all the time that an unreachable server is given."""
    monkeypatch.setattr(unary, "CONNECT_S", 0.0)
    with Client(f"127.0.0.1:9,127.0.0.1:19,{server.address}", timeout=60.0) as client:
        assert client.list()
