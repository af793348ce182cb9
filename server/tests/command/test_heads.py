"""`midrib train` and `midrib predict` as commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
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


def test_train_takes_the_options_of_lightningcli(folder: Path, tmp_path: Path) -> None:
    """Arguments of the task and of the Trainer; the options that were used are written beside the head."""
    options = ["--backbone", "efficientnet-lite0", "--data", str(folder), "--out", str(tmp_path / "head")]
    extra = ["--model.optimizer=sgd", "--trainer.limit_train_batches", "1", "--epochs", "1", "--json"]
    result = CliRunner().invoke(app, ["train", *options, *extra])
    assert result.exit_code == 0, result.output
    written = (tmp_path / "head" / "training.yaml").read_text()
    assert "optimizer: sgd" in written
    assert "limit_train_batches: 1" in written
    again = ["--config", str(tmp_path / "head" / "training.yaml"), "--out", str(tmp_path / "again"), "--json"]
    repeated = CliRunner().invoke(app, ["train", *options[:4], *again])
    assert json.loads(repeated.stdout) == json.loads(result.stdout)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        pytest.param("--trainer.max_epoks=3", "--trainer.max_epoks=3; --print_config shows every option", id="trainer"),
        pytest.param("--model.learning_rate=fast", 'key "model.learning_rate".*Given value: fast', id="value"),
        pytest.param("--lable=kind", "--lable is not an option of this command: did you mean --label", id="ours"),
        pytest.param("textures", "got the argument 'textures': pass the data with --data", id="position"),
    ],
)
def test_train_names_an_option_that_does_not_fit(folder: Path, tmp_path: Path, extra: str, message: str) -> None:
    """Before the backbone is loaded."""
    options = ["--backbone", "efficientnet-lite0", "--data", str(folder), "--out", str(tmp_path / "head"), extra]
    result = CliRunner().invoke(app, ["train", *options], env={"COLUMNS": "300"})
    assert re.search(message, f"{result.stderr}{result.exception}", re.DOTALL)
    assert not (tmp_path / "head").exists()


def test_ctrl_c_ends_a_training_within_a_second(folder: Path, tmp_path: Path) -> None:
    """Also while a library is imported, which may catch the exception; its cached features are removed."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from midrib.remote._command.responsive import end_soon_after_ctrl_c\n"
        "from midrib.server._command import heads\n"
        "end_soon_after_ctrl_c(heads._remove_features)\n"
        "Path(sys.argv[1], f'midrib-features-{os.getpid()}-x').mkdir()\n"
        "while True:\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
