"""A remote backbone takes pixels and token ids as the local one does, and gives its bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES, load_backbone
from midrib.registry import ImageInput, Registry
from midrib.remote import Client, RemoteBackbone
from midrib.remote.testing import RunningServer, serving
from midrib.task import ClassificationTask
from midrib.wire import InvalidInputError

NAME, TEXTS = "test/image/flattened", "text/embedding/wordllama-256"
REGISTRY = Registry("pixels of remote backbones")
PIXELS = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = [row.permute(1, 2, 0).numpy() for row in PIXELS]


class Flattened(nn.Module):
    """Returns its input, flattened: a difference of one bit shows."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@REGISTRY(name="flattened", namespace="test/image", input=ImageInput(4, width=6, crop=1.0))
def load_flattened() -> tuple[nn.Module, int]:
    return Flattened(), 72


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(NAME, TEXTS, registry=REGISTRY + BACKBONES) as running:
        yield running


@pytest.fixture(scope="module")
def features() -> Tensor:
    """The features of the pixels, computed in this process from floats."""
    backbone = load_backbone(NAME, registry=REGISTRY)
    return backbone.embed(backbone.prepare_images(IMAGES))


def test_pixels_in_every_form(server: RunningServer, features: Tensor) -> None:
    """A tensor, an array, images, and a Backbone over the remote module."""
    remote = RemoteBackbone(server.url(NAME))
    assert remote.takes_pixels
    assert torch.equal(remote(PIXELS), features)
    assert torch.equal(load_backbone(server.url(NAME)).embed_images(IMAGES), features)
    with Client(server.address) as client:
        np.testing.assert_array_equal(client.embed(NAME, PIXELS.numpy()), features.numpy())
        np.testing.assert_array_equal(client.embed(NAME, images=IMAGES), features.numpy())


def test_pixels_are_sent_as_bytes(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the bytes of floats: a task, and a Backbone over the remote module."""
    sent: list[torch.dtype] = []
    embed = RemoteBackbone._embed

    def recorded(backbone: RemoteBackbone, x: Tensor) -> Tensor:
        sent.append(x.dtype)
        return embed(backbone, x)

    monkeypatch.setattr(RemoteBackbone, "_embed", recorded)
    task, backbone = ClassificationTask(server.url(NAME), labels=["a", "b"]), load_backbone(server.url(NAME))
    sent.clear()  # loading checks the output for two rows of floats
    task.features(IMAGES)
    backbone.embed_images(IMAGES)
    assert sent == [torch.uint8, torch.uint8]


def test_a_server_of_an_earlier_version_is_not_sent_pixels(server: RunningServer) -> None:
    """Its description does not name uint8; the error says what to send."""
    remote = RemoteBackbone(server.url(NAME))
    remote.takes_pixels = False
    with pytest.raises(InvalidInputError, match=r"got pixels of uint8, and the server of .* takes float32 only.*send"):
        remote(PIXELS)


def test_ids_with_the_token_zero(server: RunningServer) -> None:
    """`prepare_texts` writes -1 for a text that spells the token whose id is 0."""
    local = load_backbone(TEXTS)
    ids = local.prepare_texts(["<unk> and a leaf", "[UNK] [PAD]"])
    assert (ids == -1).any()
    assert torch.equal(RemoteBackbone(server.url(TEXTS))(ids), local.embed(ids))
