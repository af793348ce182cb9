"""One suite of Task tests with the same backbone in this process and on a real server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.registry import Registry, TensorInput
from midrib.server.testing import serving
from midrib.task import ClassificationTask, RevisionError, Task
from midrib.task.testing import TaskTester
from tests.small_runs import IGNORED_HINTS

NAME = "template/classification/seeded"
REGISTRY = Registry("backbones of this suite")

pytestmark = IGNORED_HINTS


@REGISTRY(name="seeded", namespace="template/classification", input=TensorInput((8,)), num_features=16)
def load_seeded(seed: int = 0) -> tuple[nn.Module, int]:
    """Return the same weights for the same seed, in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16)), 16


class SeededTask(ClassificationTask):
    """Finds the backbone of this suite by its name."""

    backbones = REGISTRY


def data() -> tuple[Tensor, Tensor]:
    targets = torch.arange(48) % 3
    inputs = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    inputs[torch.arange(48), targets] += 4
    return inputs, targets


ROWS, TARGETS = data()


class Suite(TaskTester):
    """The checks of TaskTester, and checks that need a known backbone.

    location: the name or the URL of the backbone.
    """

    location: str

    def make_task(self, **options: Any) -> Task:
        torch.manual_seed(0)
        return SeededTask(self.location, 3, learning_rate=0.05, **options)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS[:8], TARGETS[:8]

    def fitted(self, epochs: int = 12, **options: Any) -> Task:
        task = self.make_task(**options)
        loader = DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16)
        self.make_trainer(max_epochs=epochs).fit(task, loader)
        return task

    def test_it_learns(self) -> None:
        """A head on the features separates the classes."""
        loader = DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16)
        results = self.make_trainer().test(self.fitted(), loader, verbose=False)
        assert results[0]["test_accuracy"] > 0.9

    def test_its_features_equal_those_of_the_backbone(self) -> None:
        """They are in order, for any number of rows, in this process and on the server."""
        expected = load_seeded()[0].eval()(ROWS).detach().numpy()
        np.testing.assert_allclose(self.make_task().embed(ROWS, batch_size=7), expected, atol=1e-5)

    def test_it_trains_to_the_same_head(self) -> None:
        """With the same seed, a local and a remote training end with the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            reference = SeededTask(load_seeded, 3, learning_rate=0.05)
            self.make_trainer(max_epochs=3).fit(reference, DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        weight = self.fitted(epochs=3).head.get_parameter("weight")
        torch.testing.assert_close(weight, reference.head.get_parameter("weight"), atol=1e-4, rtol=1e-3)

    def test_its_revision_is_that_of_the_local_backbone(self) -> None:
        """The same function has the same digest in every process."""
        assert self.make_task().revision == SeededTask(NAME, 3).revision

    def test_inputs_get_gradients_through_it(self) -> None:
        """A saliency map needs them, also from a served backbone."""
        inputs = ROWS[:2].clone().requires_grad_()
        task = self.make_task().eval()
        task(inputs).sum().backward()
        local = ROWS[:2].clone().requires_grad_()
        nn.Sequential(load_seeded()[0].eval(), task.head)(local).sum().backward()
        assert inputs.grad is not None
        assert local.grad is not None
        torch.testing.assert_close(inputs.grad, local.grad, atol=1e-5, rtol=1e-4)

    def test_a_cache_answers_every_epoch_after_the_first(self, tmp_path: Path) -> None:
        """Five epochs compute 48 rows in total."""
        task = self.fitted(epochs=5, cache=str(tmp_path))
        assert task.cache is not None
        assert (task.cache.hits, task.cache.misses) == (4 * 48, 48)

    def test_lower_precision_trains(self) -> None:
        """With bf16-mixed the loss is finite."""
        trainer = self.make_trainer(precision="bf16-mixed")
        trainer.fit(self.make_task(), DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        assert trainer.callback_metrics["train_loss"].isfinite()


class TestLocal(Suite):
    """The backbone is in this process."""

    location = NAME


class TestRemote(Suite):
    """The backbone is on a server."""

    @pytest.fixture(autouse=True)
    def _served(self, url: str) -> None:
        self.location = url

    def test_loading_a_checkpoint_needs_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server is called at the first use of the backbone."""
        trainer = self.make_trainer()
        trainer.fit(self.make_task(), self.make_loader())
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        with monkeypatch.context() as offline:
            offline.setattr(socket.socket, "connect", None)
            loaded = SeededTask.load_from_checkpoint(tmp_path / "task.ckpt")
        assert loaded.predict(ROWS).shape == (48,)

    def test_it_cannot_be_unfrozen(self) -> None:
        """A served backbone never changes."""
        with pytest.raises(ValueError, match=f"would train the remote backbone '{self.location}'"):
            self.make_task(finetuning="no_freeze")


def test_a_task_moves_to_a_server_and_back(url: str) -> None:
    """Its predictions stay the same."""
    task = SeededTask(NAME, 3)
    before = task.predict(ROWS, output="logits")
    remote = task.to_remote(url).predict(ROWS, output="logits")
    assert task.recipe.remote
    local = task.to_local().predict(ROWS, output="logits")
    assert not task.recipe.remote
    torch.testing.assert_close(remote, before, atol=1e-5, rtol=1e-4)
    assert torch.equal(local, before)


def test_a_task_with_other_weights_does_not_move(url: str) -> None:
    """The error names both revisions."""
    task = SeededTask(NAME, 3, backbone_kwargs={"seed": 1})
    with pytest.raises(RevisionError, match=f"and this task's backbone has {task.revision}"):
        task.to_remote(url)


def test_a_restarted_server_with_other_weights_is_refused(tmp_path: Path) -> None:
    """A head only fits the features that it was trained on."""
    path = tmp_path / "task.ckpt"
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with serving(NAME, registry=REGISTRY) as server:
        task = SeededTask(server.url(NAME), 3)
        trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_model_summary=False, **silent)
        trainer.fit(task, DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        trainer.save_checkpoint(path)
    with serving({"name": NAME, "arguments": {"seed": 1}}, registry=REGISTRY) as server:
        moved = torch.load(path, weights_only=True)
        moved["midrib"]["backbone"]["name"] = server.url(NAME)
        torch.save(moved, path)
        with pytest.raises(RevisionError, match=f"and the checkpoint has {task.revision}"):
            SeededTask.load_from_checkpoint(path).predict(ROWS)


RANK = """
import json, sys, torch
from pathlib import Path
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset
from midrib.task import ClassificationTask

url, out = sys.argv[1:]
torch.manual_seed(0)
task = ClassificationTask(url, 3, learning_rate=0.05)
rows, targets = torch.randn(48, 8, generator=torch.Generator().manual_seed(1)), torch.arange(48) % 3
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(task, DataLoader(TensorDataset(rows, targets), batch_size=8))
result = {"weights": task.head.weight.flatten().tolist(), "rows": task.backbone.stall.rows}
Path(f"{out}.{trainer.global_rank}").write_text(json.dumps(result))
"""


def test_two_ranks_are_two_clients(url: str, tmp_path: Path, child_environment: dict[str, str]) -> None:
    """Each rank embeds half of the rows on the server, and both end with the same head."""
    script, out = tmp_path / "rank.py", tmp_path / "result"
    script.write_text(RANK)
    ran = subprocess.run(
        [sys.executable, str(script), url, str(out)],
        env={**child_environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, second = (json.loads(Path(f"{out}.{rank}").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert (first["rows"], second["rows"]) == (48, 48)
