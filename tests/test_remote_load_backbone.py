"""`load_backbone("grpc://...")`: raw media in, features out, as from the local backbone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES, load_backbone
from midrib.registry import AudioInput, ContractError, ImageInput
from midrib.remote.testing import RunningServer, serving

TEXTS, AUDIO, IMAGES = "text/embedding/wordllama-256", "test/audio/level", "test/image/colour"


class Level(nn.Module):
    """The mean level and the greatest of a clip."""

    input = AudioInput(16_000)

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, 2] for [rows, samples]."""
        return torch.stack([x.abs().mean(1), x.amax(1)], 1)


class Colour(nn.Module):
    """The mean of each channel."""

    input = ImageInput(32)

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, 3] for [rows, 3, 32, 32]."""
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with BACKBONES.temporary():
        BACKBONES(lambda: (Level(), 2), name="level", namespace="test/audio", input=AudioInput(16_000))
        BACKBONES(lambda: (Colour(), 3), name="colour", namespace="test/image", input=ImageInput(32))
        with serving(TEXTS, AUDIO, IMAGES) as server:
            yield server


def test_texts_are_tokenized_by_the_server(server: RunningServer) -> None:
    """A backbone by URL embeds texts like a local one."""
    texts = ["a leaf", "the midrib of a leaf", ""]
    rows = load_backbone(server.url(TEXTS)).embed_texts(texts)
    torch.testing.assert_close(rows, load_backbone(TEXTS).embed_texts(texts))


def test_audio(server: RunningServer) -> None:
    """Clips of another rate and of several channels."""
    clips = [np.sin(np.arange(4_000, dtype=np.float32)), np.ones((500, 2), np.int16) * 12_000]
    rows = load_backbone(server.url(AUDIO)).embed_audio(clips, 8_000)
    torch.testing.assert_close(rows, load_backbone(AUDIO).embed_audio(clips, 8_000))


def test_images_are_embedded_as_pixels(server: RunningServer) -> None:
    """A backbone by URL embeds arrays of pixels like a local one."""
    images = [np.full((40, 50, 3), value, np.uint8) for value in (10, 200)]
    rows = load_backbone(server.url(IMAGES)).embed_images(images)
    torch.testing.assert_close(rows, load_backbone(IMAGES).embed_images(images))


def test_the_revision_is_the_servers(server: RunningServer) -> None:
    """It equals the local one, because server and client have the same weights."""
    assert load_backbone(server.url(TEXTS)).revision() == load_backbone(TEXTS).revision()


def test_a_remote_backbone_has_no_tokenizer_here(server: RunningServer) -> None:
    """The error says what to call instead; a text that is too long cannot be refused here."""
    backbone = load_backbone(server.url(TEXTS))
    with pytest.raises(ContractError, match="runs on a server, which tokenizes: use embed_texts"):
        backbone.prepare_texts(["a leaf"])
    with pytest.raises(ContractError, match="use embed_texts"):
        backbone.embed_texts(["a leaf"], truncate=False)
