"""Media that need far more memory than their bytes: limits, parts, and the counted size of an item."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import MediaError
from midrib.registry import AudioInput, Registry
from midrib.server import Settings
from midrib.server._intake.media import MediaPool
from midrib.server._intake.media_input import Media
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc, tensor_pb2
from midrib.wire import Array, UnavailableError, encode_tensor, status_to_error

Input = embedding_pb2.Input


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def images(*encoded: bytes) -> Input:
    return Input(images=embedding_pb2.Images(encoded=encoded))


def texts(*said: str) -> Input:
    return Input(texts=embedding_pb2.Texts(texts=said))


def media_of_images(*encoded: bytes) -> Media:
    return Media("images", encoded)


def media_of_texts(*said: str) -> Media:
    return Media("texts", said)


def clips(rate: int, *clips: tensor_pb2.Tensor) -> Input:
    return Input(audio=embedding_pb2.AudioClips(clips=clips, rate=rate))


def reason_of(error: Any) -> str:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details)).reason


SECOND = encode_tensor(np.zeros(16_000, np.float32))


class Loudness(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.abs().mean(dim=1, keepdim=True)


def load_loudness() -> tuple[nn.Module, int]:
    return Loudness(), 1


@pytest.fixture(scope="module")
def narrow(test_registry: Registry) -> Iterator[RunningServer]:
    """Texts of 100 characters, images of 10,000 pixels."""
    registry = Registry("media")
    registry(load_loudness, name="loudness", namespace="audio/embedding", input=AudioInput(16_000))
    with serving(
        "picture", "words", "loudness", registry=registry + test_registry, max_text_chars=100, max_image_pixels=10_000
    ) as running:
        yield running


@pytest.fixture(scope="module")
def stub(narrow: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(narrow.address) as channel:
        yield embedding_pb2_grpc.EmbeddingServiceStub(channel)


@pytest.mark.parametrize(
    ("backbone", "message", "reason", "words"),
    [
        pytest.param("words", texts("x", "y" * 101), "LIMIT_EXCEEDED", r"texts\[1\] has 101 characters", id="text"),
        pytest.param("picture", images(png(101, 100)), "INVALID_INPUT", "more than 10000 pixels", id="pixels"),
        pytest.param("picture", images(png(10_001, 1)), "INVALID_INPUT", "more than 10000 pixels", id="a strip"),
        pytest.param("loudness", clips(0, SECOND), "INVALID_INPUT", "got a rate of 0", id="no rate"),
        pytest.param("loudness", clips(-8000, SECOND), "INVALID_INPUT", "got a rate of -8000", id="negative rate"),
        pytest.param("loudness", clips(15_999, SECOND), "INVALID_INPUT", "resample it", id="filters of 2 GB"),
        pytest.param("loudness", clips(2**31 - 1, SECOND), "INVALID_INPUT", "resample it", id="filters without end"),
        pytest.param("loudness", clips(1, SECOND), "LIMIT_EXCEEDED", "256000000 elements", id="1 GB of samples"),
        pytest.param(
            "loudness",
            clips(16_000, tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_INT8, shape=[2**62])),
            "LIMIT_EXCEEDED",
            "elements are taken",
            id="a shape that lies",
        ),
    ],
)
def test_media_that_cost_too_much_are_refused(
    stub: Any, backbone: str, message: Input, reason: str, words: str
) -> None:
    """Before any of it is decoded."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        stub.Embed(embedding_pb2.EmbedRequest(backbone=backbone, input=message), timeout=20)
    assert reason_of(caught.value) == reason


@pytest.mark.parametrize(
    ("backbone", "message", "rows", "decoded"),
    [
        pytest.param("picture", images(png(1, 1), png(1, 1)), 2, 2 * 3 * 8 * 8, id="images"),
        pytest.param("words", texts("a", "b", "c"), 3, 3 * 8 * 8, id="texts"),
        pytest.param("loudness", clips(8000, SECOND), 1, 32_000 * 4, id="audio"),
        pytest.param("loudness", clips(1, SECOND), 1, 8 * 2**20 * 4, id="an item that will be refused"),
        pytest.param("loudness", clips(8000, tensor_pb2.Tensor(shape=[-5])), 1, 0, id="a negative length"),
        pytest.param("words", Input(tensor=encode_tensor(np.ones((2, 8), np.int64))), 2, 0, id="a tensor"),
        pytest.param("words", Input(tensor=tensor_pb2.Tensor(shape=[2**62])), 1024, 0, id="rows that it has not"),
        pytest.param("words", Input(tensor=tensor_pb2.Tensor(shape=[-5])), 0, 0, id="a negative shape"),
        pytest.param("words", Input(tensor=tensor_pb2.Tensor()), 0, 0, id="no shape"),
    ],
)
def test_an_item_counts_with_its_decoded_media(
    narrow: RunningServer, backbone: str, message: Input, rows: int, decoded: int
) -> None:
    """An image of 70 bytes becomes 150 kB: if only the bytes sent counted, a stream could hold gigabytes."""
    intake = narrow.server.catalogue.entry(backbone).ready().intake
    embedding = rows * intake.backbone.num_features * 4
    assert intake.size(message) == message.ByteSize() + decoded + embedding


def test_an_array_is_counted_with_its_embedding(narrow: RunningServer) -> None:
    """Like the message that carried it."""
    intake = narrow.server.catalogue.entry("words").ready().intake
    assert intake.size(np.ones((2, 8), np.int64)) == 2 * 8 * 8 + 2 * intake.backbone.num_features * 4
    assert intake.size(np.array(1)) == 8


class Scribe:
    """A stand-in for a backbone: one row for each medium, and a record of the parts."""

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def image_pixels(self, encoded: Sequence[bytes], *, max_pixels: int) -> Array:
        self.parts.append(len(encoded))
        self.began.set()
        self.may_go_on.wait(20)
        if b"broken" in encoded:
            raise MediaError(encoded.index(b"broken"), "is broken")
        return np.array([[len(image)] for image in encoded])

    def token_ids(self, said: Sequence[str], *, prompt: str | None = None) -> Array:
        self.parts.append(len(said))
        return np.ones((len(said), max(map(len, said)) // 100_000), np.int64)


@pytest.fixture()
def pool() -> Iterator[MediaPool]:
    threads = MediaPool(Settings())
    yield threads
    threads.close()


@pytest.fixture()
def scribe() -> Any:
    return Scribe()


async def test_images_are_decoded_a_few_at_a_time(pool: MediaPool, scribe: Any) -> None:
    """Small images are divided too; the rows keep their order."""
    rows = await pool.prepare(scribe, media_of_images(*(b"x" * number for number in range(20)), b"y" * 2**19, b"z"))
    assert scribe.parts == [8, 8, 4, 1, 1]
    assert rows[:, 0].tolist() == [*range(20), 2**19, 1]


async def test_texts_of_several_parts_are_padded_to_the_longest(pool: MediaPool, scribe: Any) -> None:
    """The rows equal those of one part."""
    rows = await pool.prepare(scribe, media_of_texts("a" * 200_000, "b" * 100_000))
    assert scribe.parts == [1, 1]
    assert rows.tolist() == [[1, 1], [1, 0]]


async def test_texts_of_a_large_message_are_decoded_as_many_at_a_time_as_others(pool: MediaPool, scribe: Any) -> None:
    """They are views of UTF-8; otherwise each would count as much as an image."""
    encoded = Media("texts", [memoryview(b"a" * 100) for _ in range(2000)])
    await pool.prepare(scribe, encoded)
    assert scribe.parts == [2000]


async def test_a_broken_image_is_named_by_its_place_in_the_item(pool: MediaPool, scribe: Any) -> None:
    """The place is not that in the part; the media after it are not decoded."""
    with pytest.raises(MediaError, match="item 9: is broken"):
        await pool.prepare(scribe, media_of_images(*[b"x"] * 9, b"broken", *[b"x"] * 20))
    assert scribe.parts == [8, 8]


async def test_media_of_a_caller_who_has_left_are_not_decoded(pool: MediaPool, scribe: Any) -> None:
    """The part that runs ends, and no other begins."""
    scribe.may_go_on.clear()
    waiting = asyncio.create_task(pool.prepare(scribe, media_of_images(*[b"x"] * 40)))
    await asyncio.to_thread(scribe.began.wait, 20)
    waiting.cancel()
    await asyncio.wait({waiting})
    scribe.may_go_on.set()
    await pool.prepare(scribe, media_of_images(b"another's"))
    assert scribe.parts == [8, 1]


async def test_media_that_wait_when_the_server_stops_are_refused(pool: MediaPool, scribe: Any) -> None:
    """Later media are refused too, with UNAVAILABLE and not as a cancelled call. Parts that run are finished."""
    scribe.may_go_on.clear()
    waiting = [asyncio.create_task(pool.prepare(scribe, media_of_images(b"x"))) for _ in range(100)]
    await asyncio.to_thread(scribe.began.wait, 20)
    pool.close()
    scribe.may_go_on.set()
    outcomes = await asyncio.gather(*waiting, pool.prepare(scribe, media_of_images(b"x")), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {np.ndarray, UnavailableError}
    assert isinstance(outcomes[-1], UnavailableError)


async def test_a_prompt_counts_for_each_text(pool: MediaPool, scribe: Any) -> None:
    """It is put before each of them: 2,048 texts of one character were one part, however long the prompt."""
    await pool.prepare(scribe, media_of_texts(*["a" * 100_000] * 3), prompt="p" * 150_000)
    assert scribe.parts == [1, 1, 1]
