"""Backbones given as pairs, which no loader has checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.registry import ContractError
from midrib.task import ClassificationTask
from midrib.task._saving.checkpoint import CheckpointError

quantize_dynamic: Any = torch.ao.quantization.quantize_dynamic  # it has no types
# torch recommends torchao instead; modules that were quantised by its own functions remain.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]
ROWS = torch.linspace(-1, 1, 20).reshape(5, 4)


class Returning(nn.Module):
    """Eight features of four numbers, in another form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(4, 8), form

    def forward(self, rows: Tensor) -> Any:
        return self.form(self.layer(rows))


def quantised(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = quantize_dynamic(nn.Sequential(nn.Linear(4, 8)), {nn.Linear})
    return module


@pytest.mark.parametrize(
    ("form", "message"),
    [
        pytest.param(lambda rows: (rows, rows), "returned a tuple, expected one tensor", id="tuple"),
        pytest.param(lambda rows: {"features": rows}, "returned a dict, expected one tensor", id="dict"),
        pytest.param(lambda rows: rows[:-1], r"returned \[4, 8\] of float32 for 5 rows", id="lost row"),
        pytest.param(lambda rows: rows[:, 0], r"returned \[5\] of float32 for 5 rows", id="one dimension"),
        pytest.param(lambda rows: rows.repeat(1, 2), r"expected \[5, 8\], floating: return", id="width"),
        pytest.param(lambda rows: rows.long(), r"returned \[5, 8\] of int64 for 5 rows", id="integers"),
    ],
)
@pytest.mark.parametrize("cache", [False, True], ids=["computed", "cached"])
def test_other_features_than_declared_are_refused(
    form: Callable[[Tensor], Any], message: str, cache: bool, tmp_path: Path
) -> None:
    """Rows that a backbone loses would shift all later ones to other items, without an error."""
    task = ClassificationTask((Returning(form), 8), 3, cache=str(tmp_path) if cache else None)
    with pytest.raises(ContractError, match=message):
        task.embed(ROWS)
    with pytest.raises(ContractError, match=message):
        task.predict(ROWS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_features_of_every_floating_type_are_taken(dtype: torch.dtype) -> None:
    """The head converts them to its own type."""
    task = ClassificationTask((Returning(lambda rows: rows.to(dtype)), 8), 3)
    assert task.predict(ROWS, output="logits").shape == (5, 3)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(lambda prediction: prediction.logits[1:], r"a tensor \[4, 3\] for a batch of 5", id="tensor"),
        pytest.param(lambda prediction: prediction.logits.mean(), r"a tensor \[\] for a batch of 5", id="number"),
        pytest.param(lambda _: ["a", "b"], "a list of 2 for a batch of 5, expected 5 rows", id="list"),
    ],
)
def test_an_output_with_another_number_of_rows_is_refused(output: Callable[[Any], Any], message: str) -> None:
    """Its rows could not be assigned to items."""
    task = ClassificationTask((Returning(lambda rows: rows), 8), 3)
    with pytest.raises(ContractError, match=message):
        task.predict(ROWS, output=output)


def test_features_of_a_quantised_backbone_are_cached(tmp_path: Path) -> None:
    """The cache is keyed by its revision."""
    task = ClassificationTask((quantised(), 8), 3, cache=str(tmp_path))
    task.embed(ROWS)
    task.embed(ROWS)
    assert (task.cache.hits, task.cache.misses) == (5, 5)  # type: ignore[union-attr] # it has a cache


def test_a_task_over_a_quantised_backbone_is_saved_and_loaded(tmp_path: Path) -> None:
    """The packed weights are those of the checkpoint."""
    task = ClassificationTask((quantised(), 8), 3, learning_rate=0.1)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(task, DataLoader(TensorDataset(ROWS, torch.arange(5) % 3), batch_size=2))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", backbone=(quantised(seed=1), 8))
    torch.testing.assert_close(loaded.predict(ROWS, output="logits"), task.predict(ROWS, output="logits"))


def test_a_quantised_task_is_not_exported(tmp_path: Path) -> None:
    """A safetensors file holds plain tensors only."""
    task = ClassificationTask((quantised(), 8), 3)
    with pytest.raises(CheckpointError, match="of a quantised layer: export the task before its backbone is quantised"):
        task.export(tmp_path / "task.safetensors")
    assert not list(tmp_path.iterdir())
