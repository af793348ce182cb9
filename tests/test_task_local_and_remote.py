"""One suite of Task tests, over the same backbone in this process and behind a real server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
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

NAME = "template/classification/seeded"
SERVED = Registry("backbones of this suite")

pytestmark = [
    # What Lightning has to say about small quiet runs.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


@SERVED(name="seeded", namespace="template/classification", input=TensorInput((8,)), num_features=16)
def load_seeded(seed: int = 0) -> tuple[nn.Module, int]:
    """The same weights for one seed, here and on the server."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16)), 16


class SeededTask(ClassificationTask):
    """Finds the suite's own backbone by its name."""

    backbones = SERVED


def data() -> tuple[Tensor, Tensor]:
    targets = torch.arange(48) % 3
    inputs = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    inputs[torch.arange(48), targets] += 4
    return inputs, targets


ROWS, TARGETS = data()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(NAME, registry=SERVED) as server:
        yield server.url(NAME)


class Suite(TaskTester):
    """The kit's checks, and what only makes sense over a known backbone."""

    where: str

    def make_task(self, **options: Any) -> Task:
        torch.manual_seed(0)
        return SeededTask(self.where, 3, learning_rate=0.05, **options)

    def make_batch(self) -> tuple[Tensor, Tensor]:
        return ROWS[:8], TARGETS[:8]

    def fitted(self, epochs: int = 12, **options: Any) -> Task:
        task = self.make_task(**options)
        loader = DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16)
        self.make_trainer(max_epochs=epochs).fit(task, loader)
        return task

    def test_it_learns(self) -> None:
        """A head on the features tells the classes apart."""
        loader = DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16)
        results = self.make_trainer().test(self.fitted(), loader, verbose=False)
        assert results[0]["test_accuracy"] > 0.9

    def test_its_features_are_the_backbones(self) -> None:
        """In order, for any number of rows, the same wherever they are computed."""
        expected = load_seeded()[0].eval()(ROWS).detach().numpy()
        np.testing.assert_allclose(self.make_task().embed(ROWS, batch_size=7), expected, atol=1e-5)

    def test_it_trains_to_the_same_head(self) -> None:
        """From one seed, local and remote come to one result."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            reference = SeededTask(load_seeded, 3, learning_rate=0.05)
            self.make_trainer(max_epochs=3).fit(reference, DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        weight = self.fitted(epochs=3).head.get_parameter("weight")
        torch.testing.assert_close(weight, reference.head.get_parameter("weight"), atol=1e-4, rtol=1e-3)

    def test_its_revision_is_the_functions(self) -> None:
        """One digest for one function, on both sides."""
        assert self.make_task().revision == SeededTask(NAME, 3).revision

    def test_inputs_get_gradients_through_it(self) -> None:
        """A saliency map needs them, wherever the backbone runs."""
        inputs = ROWS[:2].clone().requires_grad_()
        task = self.make_task().eval()
        task(inputs).sum().backward()
        local = ROWS[:2].clone().requires_grad_()
        nn.Sequential(load_seeded()[0].eval(), task.head)(local).sum().backward()
        assert inputs.grad is not None
        assert local.grad is not None
        torch.testing.assert_close(inputs.grad, local.grad, atol=1e-5, rtol=1e-4)

    def test_a_cache_serves_every_epoch_but_the_first(self, tmp_path: Path) -> None:
        """48 rows are computed, and no more, over five epochs."""
        task = self.fitted(epochs=5, cache=str(tmp_path))
        assert task.cache is not None
        assert (task.cache.hits, task.cache.misses) == (4 * 48, 48)

    def test_lower_precision_trains(self) -> None:
        """bf16-mixed: the loss is a number."""
        trainer = self.make_trainer(precision="bf16-mixed")
        trainer.fit(self.make_task(), DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        assert trainer.callback_metrics["train_loss"].isfinite()


class TestLocal(Suite):
    """In this process."""

    where = NAME


class TestRemote(Suite):
    """Behind a server."""

    @pytest.fixture(autouse=True)
    def _served(self, url: str) -> None:
        self.where = url

    def test_loading_a_checkpoint_needs_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server is asked at the first use."""
        trainer = self.make_trainer()
        trainer.fit(self.make_task(), self.make_loader())
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        with monkeypatch.context() as offline:
            offline.setattr(socket.socket, "connect", None)
            loaded = SeededTask.load_from_checkpoint(tmp_path / "task.ckpt")
        assert loaded.predict(ROWS).shape == (48,)

    def test_it_cannot_be_unfrozen(self) -> None:
        """A served backbone is an immutable function."""
        with pytest.raises(ValueError, match=f"would train the remote backbone '{self.where}'"):
            self.make_task(finetuning="no_freeze")


def test_a_project_moves_to_a_server_and_back(url: str) -> None:
    """With a trained head, in its middle: the same predictions in each place."""
    task = SeededTask(NAME, 3)
    before = task.predict(ROWS, output="logits")
    remote = task.to_remote(url).predict(ROWS, output="logits")
    assert task.recipe.remote
    local = task.to_local().predict(ROWS, output="logits")
    assert not task.recipe.remote
    torch.testing.assert_close(remote, before, atol=1e-5, rtol=1e-4)
    assert torch.equal(local, before)


def test_a_project_with_other_weights_does_not_move(url: str) -> None:
    """The server's revision is another one, and both are named."""
    task = SeededTask(NAME, 3, backbone_kwargs={"seed": 1})
    with pytest.raises(RevisionError, match=f"and this task's backbone has {task.revision}"):
        task.to_remote(url)


def test_a_restarted_server_with_other_weights_is_refused(tmp_path: Path) -> None:
    """A head belongs to the features that it was trained on."""
    path = tmp_path / "task.ckpt"
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with serving(NAME, registry=SERVED) as server:
        task = SeededTask(server.url(NAME), 3)
        trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(task, DataLoader(TensorDataset(ROWS, TARGETS), batch_size=16))
        trainer.save_checkpoint(path)
    with serving({"name": NAME, "arguments": {"seed": 1}}, registry=SERVED) as server:
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


def test_two_ranks_are_two_clients(url: str, tmp_path: Path) -> None:
    """Each asks the server for its own half of the rows, and both come to one head."""
    script, out = tmp_path / "rank.py", tmp_path / "result"
    script.write_text(RANK)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, str(script), url, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (json.loads(Path(f"{out}.{rank}").read_text()) for rank in (0, 1))
    assert one["weights"] == two["weights"]
    assert (one["rows"], two["rows"]) == (48, 48)
