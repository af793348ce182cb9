"""Backbones that Task's suite runs over: one in this process, and a stand-in for one behind a server."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.registry import TensorInput

# Lightning's warnings about small runs: they appear at every fit, and none is about the code under test.
_LIGHTNING_SAYS = (
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches .* is smaller than the logging interval",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for line in _LIGHTNING_SAYS:
                item.add_marker(pytest.mark.filterwarnings(line))


WIDTH_IN, NUM_FEATURES, NUM_CLASSES = 8, 16, 3


class RemoteStandIn(nn.Module):
    """A stand-in for midrib.remote.RemoteBackbone: no parameters, a revision, an input; counts its calls."""

    is_remote = True
    num_features = NUM_FEATURES
    input = TensorInput((WIDTH_IN,))

    def __init__(self, served: nn.Module, revision: str = "r" * 64) -> None:
        super().__init__()
        self.revision = revision
        self._served = [served.eval()]  # in a list: a module in a server is not a child of another module
        self.calls = 0
        self.asked_for_gradients = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.asked_for_gradients += inputs.requires_grad and torch.is_grad_enabled()
        with torch.no_grad():
            features: Tensor = self._served[0](inputs.detach())
        return features


def make_backbone() -> nn.Sequential:
    """A small network with everything that a freeze must hold still: weights, batch norm statistics, dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH_IN, NUM_FEATURES), nn.BatchNorm1d(NUM_FEATURES), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16)
    )


@pytest.fixture()
def local() -> tuple[nn.Module, int]:
    return make_backbone(), NUM_FEATURES


@pytest.fixture()
def remote() -> tuple[RemoteStandIn, int]:
    return RemoteStandIn(make_backbone()), NUM_FEATURES


@pytest.fixture(params=["local", "remote"])
def backbone(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    """The same suite over every kind of backbone."""
    pair: tuple[nn.Module, int] = request.getfixturevalue(request.param)
    return pair


@pytest.fixture()
def dataset() -> TensorDataset:
    """48 rows of three classes that a linear head can separate."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(48) % NUM_CLASSES
    inputs = torch.randn(48, WIDTH_IN, generator=generator)
    inputs[torch.arange(48), targets] += 4
    return TensorDataset(inputs, targets)


@pytest.fixture()
def loader(dataset: TensorDataset) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=16)


def make_trainer(**options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(quiet | options))


@pytest.fixture()
def trainer() -> Callable[..., Trainer]:
    """Make a Trainer that is quiet and writes nothing."""
    return make_trainer


@pytest.fixture()
def served(monkeypatch: pytest.MonkeyPatch) -> list[RemoteStandIn]:
    """Whatever is in this list answers, in turn, to every URL that begins with standin://."""
    answers: list[RemoteStandIn] = []

    def opened(url: str, **kwargs: Any) -> tuple[nn.Module, int]:
        module = answers.pop(0)
        return module, module.num_features

    point = SimpleNamespace(value="conftest:opened", module="conftest", dist=None, load=lambda: opened)
    real = metadata.entry_points

    def entry_points(**selection: Any) -> Any:
        return [point] if selection == {"group": "midrib.resolvers", "name": "standin"} else real(**selection)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return answers
