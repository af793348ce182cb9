"""A backbone is called like a function, and a head trains on its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from midrib.backbones import Backbone, InputKindError, MediaError, load_backbone

TEXTS = ["a leaf", "a stem"]
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
ROWS = np.random.default_rng(0).random((3, 4))


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return load_backbone("text/embedding/all-minilm-l6-v2")


@pytest.fixture(scope="module")
def perceptron() -> Backbone:
    return load_backbone("template/classification/mlp-128", num_features=4)


@pytest.fixture(scope="module")
def lite() -> Backbone:
    return load_backbone("image/classification/efficientnet-lite0", pretrained=False)


@pytest.mark.parametrize("texts", [TEXTS, np.array(TEXTS), np.array(TEXTS, object)], ids=["list", "array", "objects"])
def test_a_call_embeds_texts(minilm: Backbone, texts: Any) -> None:
    """As `embed_texts` does; a column of a data frame is an array of objects."""
    assert torch.equal(minilm(texts), minilm.embed_texts(TEXTS))


@pytest.mark.parametrize("images", [[PHOTO], PHOTO[None]], ids=["list", "array"])
def test_a_call_embeds_images(lite: Backbone, images: Any) -> None:
    """`backbone(images)` gives the rows of `embed_images`."""
    assert torch.equal(lite(images), lite.embed_images([PHOTO]))


def test_a_photograph_in_place_of_a_list_is_refused(lite: Backbone) -> None:
    """The error says how to pass one."""
    with pytest.raises(MediaError, match=r"for one picture pass images=\[array\]"):
        lite(PHOTO)


def test_a_call_embeds_a_tensor(perceptron: Backbone) -> None:
    """`backbone(tensor)` gives the rows of `embed`."""
    batch = torch.from_numpy(ROWS)
    assert torch.equal(perceptron(batch), perceptron.embed(batch))


@pytest.mark.parametrize("writeable", [True, False], ids=["writeable", "read-only"])
def test_an_array_is_embedded_like_a_tensor(perceptron: Backbone, writeable: bool) -> None:
    """Also one that may not be written to, such as a column of a data frame: without a warning."""
    array = ROWS.copy()
    array.flags.writeable = writeable
    assert torch.equal(perceptron.embed(array), perceptron.embed(torch.from_numpy(ROWS)))


def test_a_head_trains_on_the_rows(perceptron: Backbone) -> None:
    """The rows have no gradient themselves, and take part in the backward pass of what is computed from them."""
    rows = perceptron.embed(ROWS)
    head = torch.nn.Linear(128, 2)
    [gradient] = torch.autograd.grad(head(rows).sum(), [head.weight])
    assert not rows.requires_grad
    torch.testing.assert_close(gradient[0], rows.sum(dim=0))


@pytest.mark.parametrize(
    ("name", "arguments", "advice"),
    [
        pytest.param("template/classification/mlp-128", {"num_features": 4}, "pass a tensor or array", id="numbers"),
        pytest.param("audio/embedding/whisper-tiny", {"pretrained": False}, r"pass embed_audio\(clips", id="clips"),
    ],
)
def test_a_list_that_cannot_be_embedded_is_refused(name: str, arguments: dict[str, Any], advice: str) -> None:
    """The error says what to pass: the rate of clips is not known."""
    clips: Any = [[0.0, 1.0, 2.0, 3.0]]
    with pytest.raises(InputKindError, match=f"got list: {advice}"):
        load_backbone(name, **arguments)(clips)
