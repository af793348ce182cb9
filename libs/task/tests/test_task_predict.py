"""Rows out of a task: predict and embed over every kind of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.registry import ImageInput, TensorInput
from midrib.task import ClassificationTask, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]


def list_of_mappings(rows: Tensor) -> Any:
    return [{"input": row} for row in rows]


@settings(max_examples=25)
@given(rows=st.integers(0, 20), batch_size=st.integers(1, 8))
def test_rows_come_in_order_for_any_batching(rows: int, batch_size: int) -> None:
    """One row for each item, with every batch size."""
    task = Task((nn.Identity(), 1), head=nn.Identity())
    inputs = torch.arange(float(rows)).reshape(rows, 1)
    assert torch.equal(task.predict(inputs, batch_size=batch_size), inputs)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda rows: rows, id="tensor"),
        pytest.param(lambda rows: rows.numpy(), id="array"),
        pytest.param(lambda rows: list(rows.numpy()), id="list of arrays"),
        pytest.param(lambda rows: DataLoader(TensorDataset(rows), batch_size=3), id="loader of inputs"),
        pytest.param(lambda rows: DataLoader(TensorDataset(rows, rows), batch_size=3), id="loader of pairs"),
        pytest.param(lambda rows: DataLoader(list_of_mappings(rows), batch_size=3), id="loader of mappings"),
    ],
)
def test_every_form_of_data_gives_the_same_rows(backbone: Pair, form: Callable[[Tensor], Any]) -> None:
    """embed and predict read them all."""
    task, rows = ClassificationTask(backbone, 3), torch.randn(7, 8)
    np.testing.assert_allclose(task.embed(form(rows)), task.embed(rows), atol=1e-6)
    assert task.predict(form(rows)).shape == (7,)


def test_embed_returns_one_float_array(backbone: Pair) -> None:
    """[rows, num_features], for numpy and all that reads it."""
    rows = ClassificationTask(backbone, 3).embed(torch.randn(70, 8))
    assert (rows.shape, str(rows.dtype)) == ((70, 16), "float32")


def test_embed_shows_its_progress(backbone: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """The progress bar counts rows, on the error stream."""
    ClassificationTask(backbone, 3).embed(torch.randn(5, 8), progress=True)
    assert "5/5" in capsys.readouterr().err


def test_predicting_leaves_the_task_in_its_mode(backbone: Pair) -> None:
    """A training continues where it was."""
    task = ClassificationTask(backbone, 3).train()
    task.predict(torch.randn(2, 8))
    assert task.head.training


@pytest.mark.parametrize(
    "options", [pytest.param({"shuffle": True}, id="shuffle"), pytest.param({"drop_last": True}, id="drop_last")]
)
def test_a_loader_that_loses_the_order_is_refused(backbone: Pair, options: dict[str, Any]) -> None:
    """The rows could not be assigned to items."""
    loader = DataLoader(TensorDataset(torch.randn(4, 8)), batch_size=3, **options)
    with pytest.raises(ValueError, match="make it with shuffle=False, drop_last=False"):
        ClassificationTask(backbone, 3).embed(loader)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        pytest.param(
            "a text", {}, TypeError, "got str .*, which is not an existing path, expected a DataLoader", id="one string"
        ),
        pytest.param(3, {}, TypeError, "got int, expected a DataLoader", id="a number"),
        pytest.param(torch.ones(1, 8), {"batch_size": 0}, ValueError, "batch_size=0", id="empty batches"),
    ],
)
def test_wrong_data_says_what_is_accepted(
    backbone: Pair, data: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error shows the value that was given and the kinds that are accepted."""
    with pytest.raises(error, match=message):
        ClassificationTask(backbone, 3).predict(data, **options)


def test_the_trainer_predicts_too(backbone: Pair, dataset: TensorDataset, trainer: MakeTrainer) -> None:
    """Trainer.predict gives batches of the task's own output."""
    task = ClassificationTask(backbone, 3, labels=["a", "b", "c"], output_transform="labels")
    loader = DataLoader(dataset, batch_size=16)
    batches: Any = trainer().predict(task, loader)
    assert [label for batch in batches for label in batch] == task.predict(loader)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


@pytest.fixture()
def picture_task() -> ClassificationTask:
    """Its features are the mean colours, on the 0..1 scale."""

    class PictureTask(ClassificationTask):
        pass

    spec = ImageInput(8, mean=(0, 0, 0), std=(1, 1, 1), crop=1.0)
    PictureTask.backbones(lambda: (Mean(), 3), name="mean-colour", input=spec)
    return PictureTask("mean-colour", 2)


def test_images_are_prepared_as_the_backbone_wants_them(picture_task: ClassificationTask) -> None:
    """Resized, cropped and scaled by its declared input: PIL images and uint8 arrays alike."""
    red = Image.new("RGB", (20, 10), (255, 0, 0))
    expected = np.array([[1, 0, 0]], np.float32)
    np.testing.assert_allclose(picture_task.embed([red]), expected, atol=1e-6)
    np.testing.assert_allclose(picture_task.embed(np.asarray(red)[None]), expected, atol=1e-6)
    assert picture_task.prepare([red]).shape == (1, 3, 8, 8)


def test_texts_are_prepared_by_the_backbones_tokeniser(tmp_path: Path) -> None:
    """A text backbone that runs here turns strings into ids itself."""
    task = ClassificationTask("text/embedding/all-minilm-l6-v2", 2)
    rows = task.embed(["a leaf", "a leaf", "taxes"])
    assert rows.shape == (3, 384)
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)


def test_the_revision_follows_the_weights(local: Pair) -> None:
    """The digest is that of the backbone's present function."""
    task = ClassificationTask(local, 3)
    first = task.revision
    assert task.revision == first
    with torch.no_grad():
        next(local[0].parameters()).add_(1)
    assert task.revision != first


def test_a_backbones_input_is_the_tasks(remote: Pair) -> None:
    """Its kind of input is known without its name."""
    assert ClassificationTask(remote, 3).input == TensorInput((8,))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_rows_of_any_floating_type_are_predicted(local: Any, dtype: Any) -> None:
    """numpy's float64 gives the answer of float32, as through a server."""
    task, rows = ClassificationTask(local, 3), np.linspace(-1, 1, 32).reshape(4, 8)
    expected = task.predict(torch.from_numpy(rows).to(getattr(torch, np.dtype(dtype).name)).float(), output="logits")
    torch.testing.assert_close(task.predict(rows.astype(dtype), output="logits"), expected)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "negative-strides": lambda rows: rows[::-1].copy()[::-1],
    "columns-first": np.asfortranarray,
    "big-endian": lambda rows: rows.astype(">f4"),
    "big-endian-float64": lambda rows: rows.astype(">f8"),
    "long-double": lambda rows: rows.astype(np.longdouble),
    "bfloat16": lambda rows: rows.astype(ml_dtypes.bfloat16),
    "read-only": lambda rows: np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_arrays_of_any_layout_are_predicted(local: Any, layout: Callable[[Any], Any]) -> None:
    """Arrays of any memory layout give the same predictions, as through a server."""
    task, rows = ClassificationTask(local, 3), np.arange(-16, 16, dtype=np.float32).reshape(4, 8)
    expected = task.predict(torch.from_numpy(rows), output="logits")
    torch.testing.assert_close(task.predict(layout(rows), output="logits"), expected)


@pytest.mark.parametrize("form", [np.ma.array, list], ids=["array", "rows"])
def test_masked_values_are_refused(local: Any, form: Callable[[Any], Any]) -> None:
    """numpy drops the mask, and the values below it mean nothing."""
    rows = np.ma.masked_greater(np.arange(8, dtype=np.float32).reshape(1, 8), 5)
    with pytest.raises(ValueError, match="got 2 masked values: fill them, or leave out their rows"):
        ClassificationTask(local, 3).predict(form(rows))


def test_a_row_of_reversed_order_is_predicted(local: Any) -> None:
    """numpy calls a reversed axis of length 1 contiguous, and torch refuses its stride."""
    task, rows = ClassificationTask(local, 3), np.arange(8, dtype=np.float32).reshape(1, 8)
    torch.testing.assert_close(task.predict(rows[::-1]), task.predict(rows))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_backbone_in_half_precision_trains_a_head(half: torch.dtype) -> None:
    """Its features are converted to the head's type."""
    task = ClassificationTask((nn.Linear(8, 4).to(half), 4), 3)
    loss = task.training_step((torch.ones(2, 8), torch.tensor([0, 1])), 0)
    [gradient, _] = torch.autograd.grad(loss, list(task.head.parameters()))
    assert gradient.isfinite().all()


def test_no_items_give_no_rows(backbone: Any) -> None:
    """An empty list is zero rows of the usual width."""
    task = ClassificationTask(backbone, 3)
    assert task.predict([], output="logits").shape == (0, 3)
    assert task.predict([], output="labels") == []
    assert task.embed([]).shape == (0, 16)
