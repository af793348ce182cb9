"""Pixels of uint8 and token ids from a client give the bits that the backbone gives in process.

Each holds for replicas in threads of the server and for replicas in worker processes.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image

from midrib.backbones import Backbone, load_backbone
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor, encode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]
NAME = "test/embedding/flattened"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)


@pytest.fixture(scope="module", params=["thread", "process"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """`serving` with one kind of workers; a fresh process finds the backbones by the name of their module."""
    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    registry = importlib.import_module("pixel_backbones").REGISTRY

    def serve_them(*backbones: str | dict[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
        return serving(*backbones, registry=registry, **{"workers": request.param, "warm_up_s": 0.0, **settings})

    yield serve_them
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[RunningServer]:
    with serve("flattened", "rows", "ids", "spelt") as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield embedding_pb2_grpc.EmbeddingServiceStub(channel)


@pytest.fixture(scope="module")
def local(serve: Serve) -> Backbone:
    """The backbone in this process."""
    return load_backbone("flattened", registry=importlib.import_module("pixel_backbones").REGISTRY)


def embed(stub: Any, rows: Array, name: str = NAME) -> Array:
    request = embedding_pb2.EmbedRequest(backbone=name, input=embedding_pb2.Input(tensor=encode_tensor(rows)))
    return decode_tensor(stub.Embed(request, timeout=20).embedding)


def test_pixels_give_the_features_of_floats_to_the_bit(stub: Any, local: Backbone) -> None:
    """They are normalised by the server, with the arithmetic of `prepare_images`."""
    expected = local.embed(torch.from_numpy(PIXELS)).numpy()
    floats = local.prepare_images([row.transpose(1, 2, 0) for row in PIXELS]).numpy()
    np.testing.assert_array_equal(embed(stub, PIXELS), expected)
    np.testing.assert_array_equal(embed(stub, floats), expected)


def test_pixels_and_floats_are_in_different_buckets(server: RunningServer) -> None:
    """They cost the same, because the module computes as much."""
    intake = server.server.catalogue.entry(NAME).ready().intake
    (pixels, cost), (floats, same_cost) = intake.bucket(PIXELS), intake.bucket(PIXELS.astype(np.float32))
    assert pixels != floats
    assert cost == same_cost == PIXELS.size


def test_pixels_and_floats_of_many_callers_never_share_a_batch(stub: Any, local: Backbone) -> None:
    """A batch has one dtype: as floats pixels would not be normalised, as pixels floats would be cut."""
    floats = local.prepare_images([row.transpose(1, 2, 0) for row in PIXELS]).numpy()
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda rows: embed(stub, rows), [PIXELS, floats] * 40))
    np.testing.assert_array_equal(np.stack(answers), np.stack([floats.reshape(3, -1)] * 80))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"strict": True}, id="strict"),
        pytest.param({"dtype": "bfloat16"}, id="bfloat16"),
        pytest.param({"dtype": "float64"}, id="float64"),
    ],
)
def test_pixels_equal_floats_with_every_setting(serve: Serve, local: Backbone, settings: dict[str, Any]) -> None:
    """They are normalised in float32 and then converted, as floats are."""
    floats = local.embed(torch.from_numpy(PIXELS)).numpy().reshape(PIXELS.shape)
    with serve("flattened", **settings) as running, grpc.insecure_channel(running.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        np.testing.assert_array_equal(embed(stub, PIXELS), embed(stub, floats))


def test_encoded_images_give_the_features_of_pixels(stub: Any, local: Backbone) -> None:
    """The server decodes them to pixels, and normalises those."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).resize((50, 40)).save(stream, "JPEG")
    images = embedding_pb2.Images(encoded=[stream.getvalue()])
    request = embedding_pb2.EmbedRequest(backbone=NAME, input=embedding_pb2.Input(images=images))
    answer = decode_tensor(stub.Embed(request, timeout=20).embedding)
    np.testing.assert_array_equal(answer, local.embed_images([stream.getvalue()]).numpy())


def test_no_pixels_give_no_rows(stub: Any) -> None:
    """An array of no images has no rows, as one of floats."""
    assert embed(stub, PIXELS[:0]).shape == (0, 60)


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        pytest.param(NAME, PIXELS.astype(np.int64), r"is int64.*takes float32, or uint8 \(pixels", id="int64"),
        pytest.param(NAME, PIXELS.astype(np.int8), r"is int8.*takes float32, or uint8 \(pixels", id="int8"),
        pytest.param(NAME, PIXELS[:, :, :3], r"has shape \[3, 3, 3, 5\]", id="another size"),
        pytest.param(NAME, PIXELS.transpose(0, 2, 3, 1), r"\[3, 4, 5, 3\].* as images", id="channels last"),
        pytest.param("test/embedding/rows", np.ones((1, 2), np.uint8), "takes float32: convert it", id="no images"),
    ],
)
def test_other_integers_are_refused(stub: Any, name: str, rows: Array, words: str) -> None:
    """The error says which types the backbone takes."""
    with pytest.raises(grpc.RpcError, match=words):
        embed(stub, rows, name)


def test_pixels_have_no_gradient(stub: Any) -> None:
    """The error says what to send instead."""
    request = embedding_pb2.BackwardRequest(
        backbone=NAME, input=encode_tensor(PIXELS), grad_embedding=encode_tensor(np.ones((3, 60), np.float32))
    )
    with pytest.raises(grpc.RpcError, match="uint8, which has no gradient: send floats"):
        stub.Backward(request, timeout=20)


def test_the_ids_of_a_backbones_own_tokenizer_are_taken(stub: Any) -> None:
    """A token whose id is 0 is -1 in them, because 0 is padding."""
    spelt = load_backbone("spelt", registry=importlib.import_module("pixel_backbones").REGISTRY)
    ids = spelt.prepare_texts(["3052", "01"])
    assert ids.tolist() == [[3, -1, 5, 2], [-1, 1, 0, 0]]
    np.testing.assert_array_equal(embed(stub, ids.numpy(), "test/embedding/spelt"), spelt.embed(ids).numpy())


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        pytest.param("spelt", -2, r"has the token id -2.*has -1\.\.99", id="below -1"),
        pytest.param("spelt", 100, r"has the token id 100.*has -1\.\.99", id="above the last"),
        pytest.param("ids", -1, r"has the token id -1.*has 0\.\.99", id="-1 if the module looks it up"),
    ],
)
def test_ids_that_no_tokenizer_makes_are_refused(stub: Any, name: str, token: int, words: str) -> None:
    """On a GPU the module would look them up outside its table."""
    with pytest.raises(grpc.RpcError, match=words):
        embed(stub, np.array([[1, token]]), f"test/embedding/{name}")
