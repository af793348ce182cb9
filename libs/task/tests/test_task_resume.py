"""A training continues after its backbone has moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from midrib.task import CheckpointError, ClassificationTask, RevisionError

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]


@pytest.fixture()
def places(local: Pair, remote: tuple[Any, int]) -> dict[str, Pair]:
    """One backbone, here and on a server."""
    copy = type(remote[0])(local[0], revision=ClassificationTask(local, 3).revision)
    return {"here": local, "server": (copy, 16)}


@pytest.fixture()
def train(loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path) -> Callable[..., torch.Tensor]:
    """Train to an epoch, from the checkpoint where there is one; returns the head's weights."""

    def trained(backbone: Pair, epochs: int, **options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        task, path = ClassificationTask(backbone, 3, learning_rate=0.1, **options), tmp_path / "last.ckpt"
        fitting = trainer(max_epochs=epochs)
        fitting.fit(task, loader, ckpt_path=path if path.exists() else None)
        fitting.save_checkpoint(path)
        return task.head.get_parameter("weight").detach()

    return trained


@pytest.mark.parametrize(
    ("first", "then"), [pytest.param("here", "server", id="to a server"), pytest.param("server", "here", id="back")]
)
def test_a_training_goes_on_elsewhere(
    places: dict[str, Pair], train: Callable[..., torch.Tensor], tmp_path: Path, first: str, then: str
) -> None:
    """Weights and the optimizer's moments are those of a training that stayed."""
    train(places[first], 1)
    moved = train(places[then], 3)
    (tmp_path / "last.ckpt").unlink()
    torch.testing.assert_close(moved, train(places[first], 3))


def test_a_training_does_not_continue_with_another_backbone(
    places: dict[str, Pair], train: Callable[..., torch.Tensor]
) -> None:
    """The error names both revisions."""
    train(places["server"], 1)
    with pytest.raises(RevisionError, match="and the checkpoint has"):
        train((nn.Linear(8, 16), 16), 2)


def test_a_training_with_a_rate_for_its_backbone_stays(
    places: dict[str, Pair], train: Callable[..., torch.Tensor]
) -> None:
    """A scheduler has counted both rates: one cannot go."""
    train(places["here"], 1, backbone_learning_rate=0.01)
    with pytest.raises(CheckpointError, match="resume it in its former place"):
        train(places["server"], 2, backbone_learning_rate=0.01)
