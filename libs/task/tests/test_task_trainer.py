"""A task under everything that a Trainer can do: two processes, few steps, lower precision, a command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.task import ClassificationTask
from midrib.task.template import TemplateData, TemplateSKLearnClassifier

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]


Ranks = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Return the results of each of two ranks, which train in all ways one after the other."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ddp_run.py")
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(script), str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return lambda way: [json.loads((folder / f"{way}.{rank}").read_text()) for rank in (0, 1)]


def test_two_ranks_average_the_gradients_of_unfrozen_layers(ranks: Ranks) -> None:
    """After unfreezing, the backbone's gradients are averaged over ranks as the head's are."""
    first, second = ranks("freeze_unfreeze")
    assert first["weights"] == second["weights"]
    assert first["losses"] == pytest.approx(second["losses"])
    torch.testing.assert_close(torch.tensor(first["weights"]), in_one_process(), rtol=1e-4, atol=1e-5)


def in_one_process() -> torch.Tensor:
    """The training of ddp_run.py by hand: 12 rows a step, dealt to two ranks in turn."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
    task = ClassificationTask((backbone, 16), 3, finetuning="no_freeze")
    targets = torch.arange(48) % 3
    inputs = torch.randn(48, 8, generator=torch.Generator().manual_seed(1)) + targets.unsqueeze(1)
    for epoch in range(3):
        shuffle = torch.Generator().manual_seed(epoch)
        order = torch.randperm(48, generator=shuffle)
        trained = list((task if epoch >= 1 else task.head).parameters())
        for rows in order.reshape(4, 12):
            loss = nn.functional.cross_entropy(task(inputs[rows]), targets[rows])
            gradients = torch.autograd.grad(loss, trained)
            with torch.no_grad():
                for parameter, gradient in zip(trained, gradients, strict=True):
                    parameter.sub_(0.1 * gradient)
    return torch.cat([parameter.detach().reshape(-1) for parameter in task.parameters()])


def test_each_rank_is_a_client_of_its_own(ranks: Ranks) -> None:
    """Over a remote backbone both ranks train the same head, each asking for its own rows."""
    first, second = ranks("remote")
    assert first["weights"] == second["weights"]
    assert (first["calls"], second["calls"]) == (26, 26)


def test_ranks_share_one_cache(ranks: Ranks) -> None:
    """Each rank computes its rows of the first epoch; rows of later epochs may be in the other rank's cache."""
    first, second = ranks("cached")
    assert first["weights"] == second["weights"]
    assert (first["calls"], second["calls"]) == (4, 4)


def test_fast_dev_run_goes_once_through_everything(
    backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """One batch of each stage, schedulers and cache included."""
    task = ClassificationTask(backbone, 3, lr_scheduler="onecyclelr", learning_rate=0.1, cache=str(tmp_path))
    fitting = trainer(fast_dev_run=True)
    fitting.fit(task, loader, loader)
    assert fitting.global_step == 1
    assert {"train_loss", "val_loss"} <= fitting.callback_metrics.keys()


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true", "bf16-true"])
def test_lower_precision_trains(backbone: Pair, dataset: TensorDataset, trainer: MakeTrainer, precision: Any) -> None:
    """The loss is a number, and the head moved."""
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    backbone[0].to(dtype)
    for served in getattr(backbone[0], "_served", []):
        served.to(dtype)
    task = ClassificationTask(backbone, 3, learning_rate=0.1)
    before = task.head.get_parameter("weight").detach().clone()
    fitting = trainer(precision=precision)
    fitting.fit(task, DataLoader(dataset, batch_size=16))
    assert fitting.callback_metrics["train_loss"].isfinite()
    assert not torch.equal(before.to(dtype), task.head.get_parameter("weight"))


def test_a_command_line_makes_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI reads a task's arguments, and those of its parents, from YAML and flags."""
    config = tmp_path / "task.yaml"
    config.write_text(
        "model:\n"
        "  num_features: 4\n"
        "  num_classes: 3\n"
        "  optimizer: sgd\n"
        "  finetuning: [freeze_unfreeze, 1]\n"
        "  lr_scheduler: [steplr, {step_size: 1}]\n"
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    # Lightning's own use of jsonargparse is out of date; its warnings are not about this task.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(config), "--model.learning_rate=0.5"])
    cli = LightningCLI(
        TemplateSKLearnClassifier,
        run=False,
        seed_everything_default=0,
        save_config_callback=None,
        trainer_defaults=quiet | {"fast_dev_run": True, "enable_model_summary": False},
    )
    task = cli.model
    assert (task.learning_rate, task.num_classes, task.hparams["optimizer"]) == (0.5, 3, "sgd")
    cli.trainer.fit(task, TemplateData(([[0.0] * 4] * 4, [0, 1, 2, 0])))


def test_the_logger_gets_the_hyperparameters(
    backbone: Any, loader: DataLoader[Any], trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """hparams.yaml holds the arguments that the caller gave."""
    logger = CSVLogger(tmp_path)
    trainer(logger=logger).fit(ClassificationTask(backbone, 3, learning_rate=0.25), loader)
    assert "learning_rate: 0.25" in (Path(logger.log_dir) / "hparams.yaml").read_text()
