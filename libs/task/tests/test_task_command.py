"""`midrib train` and `midrib predict`: from a folder or a table to a trained head, and back to labels."""

from __future__ import annotations

import csv
import json
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data
from torch import nn

from midrib.task import CheckpointError
from midrib.task._command.prediction import predict
from midrib.task._command.training import HEAD, TrainingOptions, train

QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
TEXTURES = ("brick", "grass", "gravel")
GLOSSES = {
    "animal": ["a red fox", "a gray wolf", "a brown bear", "a wild cat", "a sea bird", "an old horse", "a young dog"],
    "food": ["a rye bread", "a soft cheese", "a ripe apple", "a fish soup", "a sweet cake", "a fresh salad", "a pie"],
}


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of three photographs: the left halves to train, the right halves to test."""
    folder = tmp_path_factory.mktemp("textures")
    for name in TEXTURES:
        photograph = getattr(data, name)()
        for number, (top, left) in enumerate((top, left) for left in (0, 128, 256, 384) for top in (0, 192, 384)):
            stage = "train" if left < 256 else "test"
            (folder / stage / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph[top : top + 96, left : left + 96]).save(folder / stage / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on EfficientNet-Lite0 for the textures."""
    out = tmp_path_factory.mktemp("head")
    train(TrainingOptions("efficientnet-lite0", textures, out, epochs=4, trainer=QUIET))
    return out


def test_a_folder_of_pictures_becomes_a_head_and_a_report(trained: Path) -> None:
    """train/ and test/ are used as such, and the report is of the test rows."""
    report = json.loads((trained / "report.json").read_text())
    assert (report["stage"], report["rows"]) == ("test", {"train": 15, "val": 3, "test": 18})
    assert report["accuracy"] == 1
    assert report["baseline"] == pytest.approx(1 / 3)
    assert report["confusion"] == [[6, 0, 0], [0, 6, 0], [0, 0, 6]]
    with Image.open(trained / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_a_served_backbone_is_opened_once(
    remote: tuple[nn.Module, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening costs a connection and a description; the head keeps the URL."""
    opened: list[str] = []

    def open_stand_in(url: str) -> tuple[nn.Module, int]:
        opened.append(url)
        return remote

    monkeypatch.setattr(sys.modules[__name__], "open_stand_in", open_stand_in, raising=False)
    points = EntryPoints([EntryPoint("standin", f"{__name__}:open_stand_in", "midrib.resolvers")])
    monkeypatch.setattr("importlib.metadata.entry_points", points.select)
    inputs = [f"x{number}" for number in range(8)]
    rows = [",".join([*[str(number)] * len(inputs), "ab"[number % 2]]) for number in range(12)]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join([",".join([*inputs, "label"]), *rows]))
    url = "standin://box/rows"
    report = train(TrainingOptions(url, table, tmp_path / "out", input=inputs, epochs=1, trainer=QUIET))
    assert (report.backbone, report.revision, opened) == (url, "r" * 64, [url])


def test_the_head_predicts_a_folder(trained: Path, textures: Path) -> None:
    """Rows come in order of the paths, named; a file that cannot be read has an error, and the others an answer."""
    folder = textures / "more"
    folder.mkdir()
    (folder / "b.png").write_bytes(b"nothing")
    for number, name in (("a", "brick"), ("c", "grass")):
        Image.open(textures / "test" / name / "7.png").save(folder / f"{number}.png")
    rows = list(predict(trained / HEAD, [folder, textures / "test" / "gravel" / "7.png"], top=2))
    assert [Path(row.row).name for row in rows] == ["a.png", "b.png", "c.png", "7.png"]
    assert [row.labels[:1] for row in rows] == [["brick"], [], ["grass"], ["gravel"]]
    assert [len(row.probabilities) for row in rows] == [2, 0, 2, 2]
    assert "not an image of a known format" in str(rows[1].error)


def write_table(path: Path, extra: str = "") -> Path:
    lines = [f"{text},{label}" for label, texts in GLOSSES.items() for text in texts]
    path.write_text("\n".join(["gloss,kind", *lines]) + extra)
    return path


def test_a_table_of_texts_becomes_a_head(tmp_path: Path) -> None:
    """The columns have names; rows without a label are left out and counted."""
    table = write_table(tmp_path / "glosses.csv", "\na stone,\n")
    with pytest.warns(UserWarning, match="1 of 15 rows are left out"):
        report = train(
            TrainingOptions(
                "all-minilm-l6-v2",
                table,
                tmp_path / "out",
                input="gloss",
                label="kind",
                epochs=30,
                val_split=0.3,
                trainer=QUIET,
            )
        )
    assert report.accuracy >= 0.75
    assert report.skipped == [(f"{table}:16", "it has no label")]
    (tmp_path / "new.csv").write_text("gloss\na black sheep\na bean stew\n")
    answers = [row.labels for row in predict(tmp_path / "out" / HEAD, [tmp_path / "new.csv"])]
    assert answers == [["animal"], ["food"]]


def test_mistakes_are_listed_the_most_confident_first(tmp_path: Path) -> None:
    """A row whose label is wrong on purpose is the only mistake."""
    table, val = write_table(tmp_path / "train.csv"), tmp_path / "val.csv"
    val.write_text("gloss,kind\na gray wolf,food\na gray wolf,animal\n")
    train(TrainingOptions("wordllama-256", table, tmp_path / "out", val=val, label="kind", epochs=30, trainer=QUIET))
    [mistake] = csv.DictReader((tmp_path / "out" / "mistakes.csv").read_text().splitlines())
    assert (mistake["row"], mistake["label"], mistake["predicted"]) == (f"{val}:2", "food", "animal")
    assert float(mistake["confidence"]) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"data": Path("none")}, "none is not a folder .* nor a table", id="no data"),
        pytest.param({"label": "kind"}, "is a folder, which has no columns", id="columns of a folder"),
        pytest.param({"backbone": "mlp-128"}, "is a folder, and this backbone takes rows of numbers", id="kind"),
    ],
)
def test_wrong_options_are_refused_before_anything_loads(
    textures: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """The error names the option's value."""
    options: dict[str, Any] = {"backbone": "timm/none", "data": textures, "out": tmp_path, **change}
    options["backbone"] = change.get("backbone", "efficientnet-lite0")
    with pytest.raises(ValueError, match=message):
        train(TrainingOptions(**options))


def test_a_head_is_not_overwritten(trained: Path, textures: Path) -> None:
    """An earlier result is worth more than a habit."""
    with pytest.raises(FileExistsError, match="head.safetensors exists: pass another folder"):
        train(TrainingOptions("efficientnet-lite0", textures, trained))


def test_predict_needs_an_exported_head(tmp_path: Path) -> None:
    """The error names a file that is not an exported head."""
    (tmp_path / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="head.safetensors is not"):
        next(predict(tmp_path / "head.safetensors", [tmp_path]))
