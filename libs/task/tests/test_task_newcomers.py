"""Mistakes that newcomers make with `midrib train`: one sentence, before anything slow begins."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import TextInput
from midrib.task import ClassificationTask, TabularData
from midrib.task._command.training import HEAD, TrainingOptions, check_out, train
from midrib.task._data.kinds import TEXTS
from midrib.task._data.locations import data_at, items_at

QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def rows(count: int) -> TabularData:
    """Return rows of two numbers, in two classes."""
    inputs = [[float(row), float(row % 2)] for row in range(count)]
    labels = ["xy"[row % 2] for row in range(count)]
    return TabularData.from_arrays((inputs, labels), val_split=0, batch_size=4)


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    """A table of twelve rows of numbers."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b,label\n" + "".join(f"{row},{row % 2},{'xy'[row % 2]}\n" for row in range(12)))
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('[{"text":', r"broken.json cannot be read as JSON \(Expecting value", id="cut short"),
        pytest.param("no\nyes\n", "broken.json holds no rows: .*broken.json:1: it is not JSON", id="text"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    """It has no columns, so that an error about a column would not help."""
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        TabularData.from_json(path)


@pytest.mark.parametrize("name", ["texts.csv", "texts.csv.gz", "texts.jsonl.gz", "texts.arrow", "texts.parquet"])
def test_a_compressed_table_is_named(tmp_path: Path, name: str) -> None:
    """Training, predicting and `midrib embed` say the same, also of a file without the suffix."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"text,label\na fox,animal\n"))
    with pytest.raises(ValueError, match=f"{name} is compressed: unpack it first"):
        data_at(path, TEXTS, val=None, test=None, options={})
    with pytest.raises(ValueError, match=f"{name} is compressed: unpack it first"):
        items_at(path, TextInput(16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"val_split": "x"}, "val_split got 'x' of type str, expected a number between 0 and 1", id="text"),
        pytest.param({"seed": 0.5}, "seed got 0.5 of type float, expected a whole number", id="seed"),
        pytest.param({"batch_size": "8"}, "batch_size got '8' of type str, expected a whole number", id="batch"),
    ],
)
def test_an_option_that_is_not_a_number_is_named(options: dict[str, Any], message: str) -> None:
    """An error of Python's comparison would not say which."""
    with pytest.raises(TypeError, match=message):
        TabularData.from_arrays(([[0.0], [1.0]], ["a", "b"]), **options)


def test_a_last_batch_of_one_row_is_left_out() -> None:
    """A batch norm cannot train on it."""
    data = rows(9)
    ClassificationTask.from_data("mlp-128", data)
    assert [len(labels) for _, labels in data.loader("train")] == [4, 4]


def test_batches_of_one_row_are_explained(table: Path, tmp_path: Path) -> None:
    """The error of torch names a shape inside the network."""
    options = TrainingOptions("mlp-128", table, tmp_path / "out", batch_size=1, epochs=1, trainer=QUIET)
    with pytest.raises(ValueError, match=r"got a batch of 1 row, \[1, .*\], and batch norms need at least 2"):
        train(options)


def test_options_that_the_trainer_refuses_are_explained(table: Path, tmp_path: Path) -> None:
    """Lightning's exception is derived from Exception itself."""
    options = TrainingOptions("mlp-128", table, tmp_path / "out", lightning=["--trainer.fast_dev_run=-1"])
    with pytest.raises(
        ValueError, match=r"the Trainer refuses its options \(.*\): check those that begin with --trainer"
    ):
        train(options)


def test_the_loaders_arguments_reach_it(table: Path, tmp_path: Path) -> None:
    """backbone_kwargs are passed to the loader, as 'name?argument=value' is in the commands."""
    options = TrainingOptions("mlp-128", table, tmp_path / "out", epochs=1, trainer=QUIET)
    with pytest.raises(ValueError, match="got inputs of shape"):
        train(TrainingOptions(**{**vars(options), "backbone_kwargs": {"num_features": 7}}))
    assert train(options).classes == ["x", "y"]


@pytest.mark.parametrize(
    ("out", "error"),
    [
        pytest.param("file/head", NotADirectoryError, id="below a file"),
        pytest.param("/proc/head", PermissionError, id="not writable"),
        pytest.param("done", FileExistsError, id="a head"),
    ],
)
def test_the_folder_for_the_head_is_checked_first(tmp_path: Path, out: str, error: type[OSError]) -> None:
    """An unusable folder is an error, also for a user who may write to every folder; the check creates nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / HEAD).touch()
    with pytest.raises(error, match="pass another"):
        check_out(tmp_path / out)
    check_out(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
