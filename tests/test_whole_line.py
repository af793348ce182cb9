"""The whole path with real weights: registry, backbone, server process, RemoteBackbone, Task."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import load_backbone
from midrib.registry import FlashRegistry
from midrib.remote import RemoteBackbone
from midrib.task import ClassificationTask
from midrib.wire import BackboneNotFoundError, UnavailableError
from tests.small_runs import quiet_trainer

EFFICIENTNET = "image/classification/efficientnet-lite0"
MINILM = "text/embedding/all-minilm-l6-v2"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a `midrib serve` process with both packaged backbones; return its address."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", EFFICIENTNET, MINILM, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        yield events[1]["address"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def train(task: ClassificationTask, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Train a task on its test data, and return its accuracy."""
    trainer = quiet_trainer(epochs=8)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=8)
    trainer.fit(task, loader, loader)
    (metrics,) = trainer.test(task, loader, verbose=False)
    return next(value for name, value in metrics.items() if "accuracy" in name)


@pytest.mark.parametrize("name", [EFFICIENTNET, MINILM], ids=["images", "texts"])
def test_remote_rows_equal_local_rows(address: str, name: str) -> None:
    """A served backbone has the rows and the revision of the local one."""
    local = load_backbone(name)
    remote = RemoteBackbone(f"grpc://{address}/{name}")
    batch = torch.randint(1, 1000, (3, 12)) if name == MINILM else torch.randn(3, 3, 224, 224)
    assert (remote.num_features, remote.input, remote.revision) == (local.num_features, local.input, local.revision())
    torch.testing.assert_close(remote(batch), local.embed(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning")
def test_a_task_takes_a_url_as_its_backbone(address: str) -> None:
    """A head on a served text backbone learns to separate two subjects."""
    texts = ["a cat sleeps", "the dog barks", "kittens play", "a puppy runs"] * 2
    texts += ["stocks fell today", "the bank raised rates", "bond yields rise", "markets closed lower"] * 2
    ids = load_backbone(MINILM).prepare_texts(texts)
    labels = torch.tensor([0] * 8 + [1] * 8)
    task = ClassificationTask(backbone=f"grpc://{address}/{MINILM}", num_classes=2, learning_rate=0.05)
    assert train(task, ids, labels) == 1.0


def test_the_error_for_an_unknown_name_helps(address: str) -> None:
    """The error names the nearest backbone."""
    with pytest.raises(BackboneNotFoundError, match="did you mean image/classification/efficientnet-lite0"):
        RemoteBackbone(f"grpc://{address}/image/classification/efficientnet-lite1")


def test_a_missing_server_is_reported_within_the_deadline() -> None:
    """The error says how to start a server."""
    with pytest.raises(UnavailableError, match="midrib serve"):
        ClassificationTask(backbone="grpc://127.0.0.1:1/a/b", num_classes=2, backbone_kwargs={"timeout": 2.0})


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning")
def test_the_example_of_flashs_contributor_guide_runs() -> None:
    """A task finds a backbone by its name in the registry of the guide."""
    TEMPLATE_BACKBONES = FlashRegistry("backbones")  # noqa: N806 - the name in the guide

    @TEMPLATE_BACKBONES(name="mlp-128", namespace="template/classification")
    def load_mlp_128(num_features: int) -> tuple[nn.Module, int]:
        """A simple MLP backbone with 128 hidden features."""
        return nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(True), nn.BatchNorm1d(128)), 128

    @TEMPLATE_BACKBONES(name="mlp-128-256", namespace="template/classification")
    def load_mlp_128_256(num_features: int) -> tuple[nn.Module, int]:
        """A two-layer MLP backbone with 256 hidden features."""
        return (
            nn.Sequential(
                nn.Linear(num_features, 128), nn.ReLU(True), nn.BatchNorm1d(128),
                nn.Linear(128, 256), nn.ReLU(True), nn.BatchNorm1d(256),
            ),
            256,
        )  # fmt: skip

    class TemplateTask(ClassificationTask):
        backbones = TEMPLATE_BACKBONES

    torch.manual_seed(0)
    inputs, labels = torch.randn(32, 4), torch.arange(32) % 2
    inputs[:, 0] += 6 * labels
    task = TemplateTask(backbone="mlp-128-256", backbone_kwargs={"num_features": 4}, num_classes=2, learning_rate=0.01)
    assert TEMPLATE_BACKBONES.get("mlp-128") is load_mlp_128
    assert train(task, inputs, labels) > 0.9
