"""Raw media through a server equal the same media embedded in process, for the packaged backbones."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from midrib.backbones import BACKBONES, load_backbone
from midrib.remote import AsyncClient, Client, RemoteBackbone, embed_files
from midrib.server.testing import RunningServer, serving
from midrib.wire import Array, InputKindError, InvalidInputError

IMAGES = "image/classification/efficientnet-lite0"
TEXTS = "text/embedding/all-minilm-l6-v2"
SENTENCES = ["a leaf has a midrib", "veins branch from it", "", "gradient descent " * 200]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(IMAGES, TEXTS, registry=BACKBONES, warm_up_s=0.0) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (224, 224), (300, 90)]
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def image_features(pictures: list[Image.Image]) -> Array:
    features: Array = load_backbone(IMAGES).embed_images(pictures).numpy()
    return features


@pytest.mark.parametrize("form", ["pil", "array", "bytes"])
def test_images_in_any_form(client: Client, pictures: list[Image.Image], image_features: Array, form: str) -> None:
    """PIL images, uint8 arrays and encoded bytes carry the same pixels."""
    forms: dict[str, Any] = {
        "pil": pictures,
        "array": [np.asarray(p) for p in pictures],
        "bytes": [_png(p) for p in pictures],
    }
    got = client.embed(IMAGES, images=forms[form])
    np.testing.assert_allclose(got, image_features, atol=1e-4 * np.abs(image_features).max())


def test_texts(client: Client) -> None:
    """Strings, an empty and an over-long one among them."""
    want = load_backbone(TEXTS).embed_texts(SENTENCES).numpy()
    np.testing.assert_allclose(client.embed(TEXTS, texts=SENTENCES), want, atol=1e-5)


def test_neighbours_change_nothing(server: RunningServer) -> None:
    """Texts of many callers share batches, and padding, without changing each other."""
    want = load_backbone(TEXTS).embed_texts(SENTENCES).numpy()

    async def together() -> list[Array]:
        async with AsyncClient(server.address, timeout=60.0) as client:
            return await asyncio.gather(*(client.embed(TEXTS, texts=[text]) for text in SENTENCES))

    np.testing.assert_allclose(np.concatenate(asyncio.run(together())), want, atol=1e-5)


def test_token_ids_give_the_compute_type(server: RunningServer) -> None:
    """A text backbone takes int64 ids, which have no floating type to give back."""
    here = load_backbone(TEXTS)
    ids = here.prepare_texts(SENTENCES)
    got = RemoteBackbone(server.url(TEXTS), timeout=60.0)(ids)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, here.module(ids).detach(), atol=1e-5, rtol=1e-4)


def test_a_broken_image_fails_only_its_caller(client: Client, pictures: list[Image.Image]) -> None:
    """The error says which row; the client continues."""
    with pytest.raises(InvalidInputError, match="item 1: these bytes are not an image"):
        client.embed(IMAGES, images=[_png(pictures[0]), b"no image"])
    assert client.embed(IMAGES, images=pictures[:1]).shape == (1, 1280)


def test_the_wrong_kind_of_input_is_refused(client: Client) -> None:
    """The error for texts names the input that an image backbone takes."""
    with pytest.raises(InputKindError, match="image"):
        client.embed(IMAGES, texts=["a leaf"])


def test_image_gradients_equal_the_local_ones(server: RunningServer) -> None:
    """Backward through a real backbone."""
    here = load_backbone(IMAGES)
    remote = RemoteBackbone(server.url(IMAGES), timeout=60.0)
    x = torch.randn(2, 3, 224, 224)
    gradients = []
    for module in (remote, here.module):
        leaf = x.clone().requires_grad_()
        module(leaf).square().mean().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-4 * float(gradients[1].abs().max()), rtol=1e-3)


def test_a_folder_of_images_becomes_one_file(
    server: RunningServer, pictures: list[Image.Image], image_features: Array, tmp_path: Path
) -> None:
    """With the broken one aside."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    progress = embed_files(server.url(IMAGES), [folder], tmp_path / "out.npy", timeout=60.0)
    assert (progress.done, progress.bad) == (4, 1)
    got = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(got, image_features, atol=1e-4 * np.abs(image_features).max())


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
