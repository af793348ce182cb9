"""The saved parts of a task, and how they are restored."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_lightning import Trainer
from safetensors.torch import save as safetensors_of
from torch import nn
from torch.utils.data import DataLoader

from midrib.registry import TensorInput
from midrib.task import CheckpointError, ClassificationTask, RegressionTask, RevisionError, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
ROWS = torch.linspace(-1, 1, 16).reshape(2, 8)
MLP = "template/classification/mlp-128"


@pytest.fixture()
def task() -> ClassificationTask:
    return ClassificationTask(
        MLP, labels=["a", "b"], backbone_kwargs={"num_features": 8}, learning_rate=0.1, head=("mlp", {"width": 4})
    )


@pytest.fixture()
def save(loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path) -> Callable[[Task], Path]:
    def saved(task: Task) -> Path:
        fitting = trainer(max_steps=1)
        fitting.fit(task, DataLoader([(row, 0) for row in ROWS], batch_size=2))  # type: ignore[arg-type] # a list is a dataset
        fitting.save_checkpoint(tmp_path / "task.ckpt")
        return tmp_path / "task.ckpt"

    return saved


def test_a_checkpoint_brings_the_task_back(task: ClassificationTask, save: Callable[[Task], Path]) -> None:
    """The same outputs, labels and arguments, from the file alone."""
    loaded = ClassificationTask.load_from_checkpoint(save(task))
    assert torch.equal(loaded.predict(ROWS, output="logits"), task.predict(ROWS, output="logits"))
    assert (loaded.labels, loaded.learning_rate, loaded.recipe.name) == (["a", "b"], 0.1, MLP)


def test_a_checkpoint_holds_the_backbones_recipe(task: ClassificationTask, save: Callable[[Task], Path]) -> None:
    """Name, arguments, versions, and the revision of the weights beside it."""
    note = torch.load(save(task), weights_only=True)["midrib"]
    recipe = note["backbone"]
    assert (note["format"], note["task"]) == ("0.1", "ClassificationTask")
    assert (recipe["name"], recipe["kwargs"], recipe["num_features"]) == (MLP, {"num_features": 8}, 128)
    assert recipe["revision"] == task.revision
    assert set(recipe["packages"]) == {"torch"}


def test_loading_asks_for_no_pretrained_weights(save: Callable[[Task], Path]) -> None:
    """The weights are in the checkpoint; a loader that could fetch some gets pretrained=False."""
    requests: list[bool] = []

    class Mine(ClassificationTask):
        pass

    def load(pretrained: bool = True) -> Pair:
        requests.append(pretrained)
        return nn.Linear(8, 4), 4

    Mine.backbones(load, name="fetched", input=TensorInput((8,)))
    path = save(Mine("fetched", 2))
    Mine.load_from_checkpoint(path)
    assert requests == [True, False]


def test_loading_a_remote_task_opens_no_connection(
    served: list[Any], remote: Pair, save: Callable[[Task], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked at the first use, and not before."""
    served.append(remote[0])
    task = ClassificationTask("standin://host:1/a/b", 2)
    path = save(task)
    with monkeypatch.context() as offline:
        offline.setattr(socket, "socket", None)
        loaded = ClassificationTask.load_from_checkpoint(path)
        assert (loaded.num_features, loaded.revision) == (16, "r" * 64)
    served.append(remote[0])
    assert torch.equal(loaded.predict(ROWS, output="logits"), task.predict(ROWS, output="logits"))


def test_a_server_with_another_revision_is_refused(
    served: list[Any], remote: tuple[Any, int], save: Callable[[Task], Path]
) -> None:
    """Both revisions are named: the head was trained on other features."""
    served.append(remote[0])
    loaded = ClassificationTask.load_from_checkpoint(save(ClassificationTask("standin://host:1/a/b", 2)))
    other = type(remote[0])(nn.Linear(8, 16), revision="s" * 64)
    served.append(other)
    with pytest.raises(RevisionError, match="has revision s{64}, and the checkpoint has r{64}"):
        loaded.predict(ROWS)


def test_a_wrong_bit_is_refused(task: ClassificationTask, save: Callable[[Task], Path]) -> None:
    """torch does not compare the checksums that it writes; the head has no revision that would show the bit."""
    path = save(task)
    content = bytearray(path.read_bytes())
    content[content.index(next(iter(task.head.state_dict().values())).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"or it is damaged \(checksum of its member .*/data/\d+\)"):
        ClassificationTask.load_from_checkpoint(path)


def test_a_damaged_backbone_is_refused(task: ClassificationTask, save: Callable[[Task], Path]) -> None:
    """The weights in the file are those that the recipe names, or it is said."""
    path = save(task)
    checkpoint = torch.load(path, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("backbone."))
    checkpoint["state_dict"][name] += 1
    torch.save(checkpoint, path)
    with pytest.raises(RevisionError, match=rf"{MLP}' has revision .*, and the checkpoint has {task.revision}"):
        ClassificationTask.load_from_checkpoint(path)


def test_a_token_is_never_saved(served: list[Any], remote: Pair, save: Callable[[Task], Path]) -> None:
    """Neither the recipe nor the hyper-parameters hold it; the caller passes it again."""
    served.append(remote[0])
    path = save(ClassificationTask("standin://host:1/a/b", 2, backbone_kwargs={"token": "hush", "window": 4}))
    assert b"hush" not in path.read_bytes()
    loaded = ClassificationTask.load_from_checkpoint(path, backbone_kwargs={"token": "hush"})
    assert loaded.recipe.kwargs == {"window": 4, "token": "hush"}


def test_a_pair_must_be_given_again(backbone: Pair, save: Callable[[Task], Path]) -> None:
    """A checkpoint holds no modules; it says what to pass."""
    path = save(ClassificationTask(backbone, 2))
    with pytest.raises(ValueError, match=r"load_from_checkpoint\(path, backbone=\(module, num_features\)\)"):
        ClassificationTask.load_from_checkpoint(path)
    assert ClassificationTask.load_from_checkpoint(path, backbone=backbone).recipe.num_features == 16


def test_functions_and_modules_must_be_passed_again(local: Pair, save: Callable[[Task], Path]) -> None:
    """The error names them."""
    path = save(ClassificationTask(local, 2, loss_fn=F.cross_entropy))
    with pytest.raises(CheckpointError, match=r"was made with loss_fn .*load_from_checkpoint\(path, loss_fn=...\)"):
        ClassificationTask.load_from_checkpoint(path, backbone=local)
    ClassificationTask.load_from_checkpoint(path, backbone=local, loss_fn=F.cross_entropy)


def test_numpys_numbers_are_kept(local: Pair) -> None:
    """A rate out of np.logspace is a rate."""
    task = ClassificationTask(local, 2, learning_rate=np.float64(0.5))
    assert repr(task.hparams["learning_rate"]) == "0.5"


def test_the_outermost_classs_arguments_are_kept(local: Pair) -> None:
    """The arguments are kept as the caller wrote them, not as a class passes them to its parent."""
    assert dict(ClassificationTask(local, 2, learning_rate=0.5).hparams) == {"num_classes": 2, "learning_rate": 0.5}


def test_another_classs_checkpoint_is_named(task: ClassificationTask, save: Callable[[Task], Path]) -> None:
    """The error names the class that made it, and the class that loads it."""
    with pytest.raises(CheckpointError, match="holds a ClassificationTask, loaded as RegressionTask"):
        RegressionTask.load_from_checkpoint(save(task))


@pytest.mark.parametrize(
    ("note", "message"),
    [
        pytest.param(None, "was not made by a midrib Task", id="no note"),
        pytest.param({"format": "7.0"}, "has format 7.0, and this midrib-task reads 0.1", id="another format"),
    ],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, note: Any, message: str) -> None:
    """The error comes before anything is built from the checkpoint."""
    torch.save({"state_dict": {}, "midrib": note}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=message):
        Task.load_from_checkpoint(tmp_path / "foreign.ckpt")


def test_an_export_is_one_safetensors_file(task: ClassificationTask, tmp_path: Path) -> None:
    """Weights, arguments and recipe; nothing in it is executed."""
    task.export(tmp_path / "task.safetensors")
    loaded = ClassificationTask.load_export(tmp_path / "task.safetensors")
    assert torch.equal(loaded.predict(ROWS, output="logits"), task.predict(ROWS, output="logits"))
    assert loaded.labels == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "load"),
    [
        pytest.param(safetensors_of({"a": torch.ones(1)}), Task.load_export, id="another safetensors file"),
        pytest.param(b"<html>not found</html>", Task.load_export, id="a web page as an export"),
        pytest.param(b"<html>not found</html>", Task.load_from_checkpoint, id="a web page as a checkpoint"),
        pytest.param(pickle.dumps(print), Task.load_from_checkpoint, id="code"),
    ],
)
def test_another_file_is_refused_by_its_name(tmp_path: Path, content: bytes, load: Callable[[Path], Task]) -> None:
    """Nothing in it is executed, and the error says which file it is."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="file is not .* check the path, or write it again"):
        load(tmp_path / "file")


# From local to remote and back


@pytest.fixture()
def same(task: ClassificationTask, remote: tuple[Any, int]) -> Any:
    """A server's copy of the task's backbone."""
    copy = type(remote[0])(task.backbone, revision=task.revision)
    copy.num_features = 128
    return copy


def test_a_task_moves_to_a_server_and_back(task: ClassificationTask, served: list[Any], same: Any) -> None:
    """The trained head does not change; the outputs are the same."""
    before = task.predict(ROWS, output="logits")
    served.append(same)
    task.to_remote(f"standin://host:1/{MLP}")
    assert (task.backbone, task.hparams["backbone"]) == (same, f"standin://host:1/{MLP}")
    torch.testing.assert_close(task.predict(ROWS, output="logits"), before)


def test_a_task_moves_back_by_the_name_in_the_url(served: list[Any], remote: tuple[Any, int]) -> None:
    """to_local() needs no argument where the name is known here."""
    torch.manual_seed(3)
    from midrib.backbones import load_backbone

    local = load_backbone(MLP, num_features=8)
    copy = type(remote[0])(local.module, revision=local.revision())
    copy.num_features = 128
    served.append(copy)
    task = ClassificationTask(f"standin://host:1/{MLP}", 2)
    torch.manual_seed(3)
    task.to_local(num_features=8)
    assert (task.recipe.name, task.recipe.remote, task.recipe.kwargs) == (MLP, False, {"num_features": 8})


def test_a_server_with_other_weights_is_refused(task: ClassificationTask, served: list[Any], same: Any) -> None:
    """The task is then unchanged."""
    same.revision = "s" * 64
    served.append(same)
    backbone = task.backbone
    with pytest.raises(RevisionError, match="has revision s{64}, and this task's backbone has"):
        task.to_remote("standin://host:1/a/b")
    assert task.backbone is backbone


def test_a_server_that_computes_otherwise_is_refused(task: ClassificationTask, served: list[Any], same: Any) -> None:
    """Revisions agree and embeddings do not: the largest difference is named."""
    same._served = [nn.Sequential(task.backbone, nn.Threshold(1e9, 7.0))]
    served.append(same)
    with pytest.raises(RevisionError, match="although their revisions agree: the largest difference is 7"):
        task.to_remote("standin://host:1/a/b")


def test_a_task_that_trains_its_backbone_stays_local(served: list[Any], same: Any, task: ClassificationTask) -> None:
    """A server's backbone is immutable; the strategy must be freeze first."""
    task.set_finetuning("no_freeze")
    served.append(same)
    with pytest.raises(ValueError, match="would train the remote backbone"):
        task.to_remote("standin://host:1/a/b")
