"""`midrib train` and `midrib predict` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from midrib.server.cli import app

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of each colour, and a file that is not a picture."""
    folder = tmp_path_factory.mktemp("colours")
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for side in range(20, 25):
            Image.new("RGB", (side, side), colour).save(folder / name / f"{side}.png")
    (folder / "red" / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, str]:
    """The head, and the output of the command that trained it."""
    out = folder.parent / "head"
    options = ["--backbone", "efficientnet-lite0", "--data", str(folder), "--out", str(out), "--epochs", "3", "--json"]
    result = CliRunner().invoke(app, ["train", *options])
    assert result.exit_code == 0, result.output
    return out / "head.safetensors", result.stdout


def test_train_prints_its_report(trained: tuple[Path, str]) -> None:
    """One line of JSON: the accuracy, and the rows that were left out with their reasons."""
    report = json.loads(trained[1])
    assert (report["accuracy"], report["classes"]) == (1, ["green", "red"])
    assert (report["backbone"], len(report["revision"])) == ("efficientnet-lite0", 64)
    [[row, reason]] = report["skipped"]
    assert row.endswith("broken.png")
    assert "not an image of a known format" in reason


def test_predict_prints_a_line_for_each_file(trained: tuple[Path, str], folder: Path) -> None:
    """A file that cannot be read has its reason, and the exit status is 1."""
    files = [folder / "green" / "20.png", folder / "red" / "broken.png"]
    result = CliRunner().invoke(app, ["predict", str(trained[0]), *map(str, files)])
    green, broken = result.stdout.splitlines()
    assert green.startswith(f"{files[0]}\tgreen 0.")
    assert broken.startswith(f"{files[1]}\tthese bytes are not an image")
    assert result.exit_code == 1
    assert "features by efficientnet-lite0, revision " in result.stderr


def test_predict_prints_json(trained: tuple[Path, str], folder: Path) -> None:
    """An object on each line, with as many labels as --top says."""
    result = CliRunner().invoke(app, ["predict", str(trained[0]), str(folder / "green"), "--json", "--top", "2"])
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["labels"] for answer in answers] == [["green", "red"]] * 5
    assert {(answer["backbone"], len(answer["revision"])) for answer in answers} == {("efficientnet-lite0", 64)}
    assert result.exit_code == 0


def test_epochs_are_counted_from_1(folder: Path, tmp_path: Path) -> None:
    """Lightning's bars end with "Epoch 0" for a training of one epoch."""
    options = ["--backbone", "efficientnet-lite0", "--data", str(folder), "--out", str(tmp_path), "--epochs", "1"]
    result = CliRunner().invoke(app, ["train", *options])
    assert "epoch 1 of 1: 100%" in result.stderr
    assert "Epoch 0" not in result.output
