"""Data modules over a backbone in this process and behind a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning import Trainer, seed_everything

from midrib.server.testing import RunningServer, serving
from midrib.task import ClassificationTask, ImageData, TextData

IMAGES, TEXTS = "image/classification/efficientnet-lite0", "text/embedding/wordllama-256"
GLOSSES = ["a red fox", "a rye bread", "a gray wolf", "a ripe apple", "a brown bear", "a fish soup"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(IMAGES, TEXTS, warm_up_s=0.0) as running:
        yield running


def trained(backbone: str, data: ImageData | TextData) -> ClassificationTask:
    seed_everything(0, verbose=False)
    task = ClassificationTask.from_data(backbone, data, learning_rate=0.05)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=20, accelerator="cpu", enable_model_summary=False, **quiet).fit(task, datamodule=data)
    return task


def test_a_folder_trains_the_same_head_in_both_places(server: RunningServer, tmp_path: Path) -> None:
    """Only the backbone's name changes: the same features of the files, and the same answers."""
    for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30))):
        (tmp_path / name).mkdir()
        for side in range(30, 35):
            Image.new("RGB", (side, 30), colour).save(tmp_path / name / f"{side}.png")
    data = ImageData.from_folder(tmp_path)
    local, remote = trained(IMAGES, data), trained(server.url(IMAGES), data)
    np.testing.assert_allclose(remote.embed(tmp_path), local.embed(tmp_path), atol=1e-4)
    assert remote.predict(tmp_path, output="labels") == local.predict(tmp_path, output="labels")


def test_texts_train_the_same_head_in_both_places(server: RunningServer) -> None:
    """The server tokenises them."""
    labelled = (GLOSSES, ["animal", "food"] * 3)
    data = TextData.from_arrays(labelled, labelled)
    local, remote = trained(TEXTS, data), trained(server.url(TEXTS), data)
    np.testing.assert_allclose(remote.embed(GLOSSES), local.embed(GLOSSES), atol=1e-4)
    assert remote.predict(GLOSSES, output="labels") == local.predict(GLOSSES, output="labels") == ["animal", "food"] * 3
