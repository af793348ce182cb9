"""Images stay pixels of uint8 on their way to the backbone, which normalises them on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.registry import ImageInput
from midrib.task import ClassificationTask, ImageData

MakeTrainer = Callable[..., Trainer]
PIXELS = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = [row.permute(1, 2, 0).numpy() for row in PIXELS]
TARGETS = torch.tensor([0, 1, 0, 1, 0, 1])


class Convolution(nn.Module):
    """A trainable backbone, the same at every load, that notes the types of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.dtypes.add(images.dtype)
        return self.layer(images).mean(dim=(2, 3))  # type: ignore[no-any-return] # a layer's call is untyped


@pytest.fixture(autouse=True)
def _backbone() -> Iterator[None]:
    with ClassificationTask.backbones.temporary() as registry:
        registry(lambda: (Convolution(), 4), name="convolution", input=ImageInput(8, crop=1.0))
        yield


def make_task(**options: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask("convolution", labels=["a", "b"], **options)


def test_pixels_give_the_features_of_floats_to_the_bit() -> None:
    """A tensor of uint8, the images themselves, and the result of `prepare` for them."""
    task = make_task()
    expected = task.features(task.prepare(IMAGES))
    assert task.prepare(IMAGES).dtype == torch.float32
    assert torch.equal(task.features(PIXELS), expected)
    assert torch.equal(task.features(IMAGES), expected)


@pytest.mark.parametrize("options", [{}, {"finetuning": "no_freeze"}], ids=["frozen", "training"])
def test_a_training_on_pixels_ends_with_the_weights_of_one_on_floats(
    trainer: MakeTrainer, options: dict[str, Any]
) -> None:
    """The weights are equal whether the backbone is frozen or trains."""
    tasks = [make_task(**options), make_task(**options)]
    for task, rows in zip(tasks, (PIXELS, tasks[0].prepare(IMAGES)), strict=True):
        trainer(max_epochs=2).fit(task, DataLoader(TensorDataset(rows, TARGETS), batch_size=3))
    states = [task.state_dict() for task in tasks]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_a_data_module_hands_over_pixels(trainer: MakeTrainer) -> None:
    """A quarter of the bytes from its workers and to the device; the backbone gets floats."""
    data = ImageData.from_arrays(train=(IMAGES, ["a", "b"] * 3), val_split=0, batch_size=6)
    task = ClassificationTask.from_data("convolution", data)
    trainer().fit(task, datamodule=data)
    inputs, _ = next(iter(data.loader("train")))
    assert (inputs.dtype, inputs.shape) == (torch.uint8, PIXELS.shape)
    assert task.backbone.dtypes == {torch.float32}


def test_prediction_of_images_equals_that_of_floats(tmp_path: Path) -> None:
    """Files, images and rows of either type."""
    task = make_task()
    expected = task.embed(task.prepare(IMAGES))
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    np.testing.assert_array_equal(task.embed(tmp_path), expected)
    np.testing.assert_array_equal(task.embed(PIXELS), expected)
    np.testing.assert_array_equal(task.embed(PIXELS.numpy()[::-1]), expected[::-1])


def test_a_cache_keeps_the_features_of_pixels(tmp_path: Path) -> None:
    """The second call computes nothing, and gives the same bits."""
    task = make_task(cache=str(tmp_path))
    first, second = task.features(PIXELS), task.features(PIXELS)
    assert torch.equal(first, second)
    assert task.cache is not None
    assert (task.cache.hits, task.cache.misses) == (6, 6)


def test_under_autocast_pixels_equal_floats() -> None:
    """They are normalised in float32; autocast then does as with floats."""
    task = make_task()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.features(PIXELS), task.features(task.prepare(IMAGES)))


@pytest.mark.parametrize("layer", ["backbone", "backbone.layer", "head"])
def test_an_embedder_takes_pixels_too(layer: str) -> None:
    """It ends at a layer of a task whose input is declared."""
    task = make_task()
    embedder = task.as_embedder(layer, sample=PIXELS)
    assert torch.equal(embedder.features(PIXELS), embedder.features(task.prepare(IMAGES)))


class Server(Convolution):
    """Stands for a remote backbone. takes_pixels: whether its server normalises pixels."""

    is_remote = True
    revision = "r"
    input = ImageInput(8, crop=1.0)

    def __init__(self, *, takes_pixels: bool) -> None:
        super().__init__()
        self.requires_grad_(requires_grad=False)
        self.takes_pixels = takes_pixels

    def forward(self, images: Tensor) -> Tensor:
        self.dtypes.add(images.dtype)
        return torch.zeros(len(images), 4)


@pytest.mark.parametrize(("takes_pixels", "dtype"), [(True, torch.uint8), (False, torch.float32)])
def test_a_remote_backbone_gets_pixels_if_its_server_takes_them(takes_pixels: bool, dtype: torch.dtype) -> None:
    """A server of an earlier version gets floats, also if its user has pixels."""
    server = Server(takes_pixels=takes_pixels)
    task = ClassificationTask((server, 4), labels=["a", "b"])
    task.features(IMAGES)
    task.features(PIXELS)
    assert server.dtypes == {dtype}
