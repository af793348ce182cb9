"""Data modules: which rows and labels come out of folders, files, tables and arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from midrib.task import ImageData, TabularData, TextData
from midrib.task._features.media import image_of

TEXTS = ["a red fox", "a fish", "two foxes", "many fish"]
LABELS = ["fox", "fish", "fox", "fish"]


def write_images(folder: Path, *names: str) -> None:
    for level, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (level * 20, 0, 0)).save(path)


def rows(samples: Any) -> list[tuple[Any, Any]]:
    return list(zip(samples.sources, samples.labels, strict=True))


def test_a_folder_holds_a_folder_for_each_class(tmp_path: Path) -> None:
    """The label is the first folder's name, however deep a file lies, and however its suffix is written."""
    write_images(tmp_path, "b/1.png", "b/deep/2.PNG", "a/3.jpg")
    data = ImageData.from_folder(tmp_path, val_split=0)
    assert rows(data.stages["train"]) == [
        (tmp_path / "a/3.jpg", "a"),
        (tmp_path / "b/1.png", "b"),
        (tmp_path / "b/deep/2.PNG", "b"),
    ]
    assert data.labels == ["a", "b"]


def test_linked_folders_are_followed_and_hidden_files_are_not_rows(tmp_path: Path) -> None:
    """A class folder may be a link; `._` files, hidden files and Thumbs.db hold no images."""
    write_images(tmp_path / "elsewhere", "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    for name in ("._1.png", ".hidden.png", "Thumbs.db"):
        (tmp_path / "elsewhere" / name).write_bytes(b"metadata")
    data = ImageData.from_folder(tmp_path / "data")
    assert rows(data.stages["train"]) == [(tmp_path / "data/linked/1.png", "linked")]
    assert data.skipped == ()


def test_rows_that_cannot_be_used_are_counted_with_their_reason(tmp_path: Path) -> None:
    """One warning names the first of them; `skipped` lists all."""
    write_images(tmp_path, "a/1.png", "loose.png")
    (tmp_path / "a" / "2.png").write_bytes(b"not an image")
    (tmp_path / "a" / "notes.md").write_text("x")
    with pytest.warns(UserWarning, match=r"3 of 4 rows are left out: .*notes\.md: it is a \.md"):
        data = ImageData.from_folder(tmp_path)
    reasons = {Path(row).name: reason for row, reason in data.skipped}
    assert reasons["loose.png"] == "it is not in the folder of a class"
    assert "not an image of a known format" in reasons["2.png"]


def test_labels_belong_to_files() -> None:
    """from_files takes paths and labels; both must be as many."""
    with pytest.raises(ValueError, match="got 2 rows and 1 labels"):
        ImageData.from_files((["a.png", "b.png"], ["a"]))


def write_csv(path: Path) -> None:
    lines = [f"{text};{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(["text;label", *lines]))


def write_utf16(path: Path) -> None:
    write_csv(path)
    path.write_bytes(path.read_text().encode("utf-16"))


def write_jsonl(path: Path) -> None:
    records = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(map(json.dumps, records)))


def write_json(path: Path) -> None:
    path.write_text(json.dumps([{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]))


def write_parquet(path: Path) -> None:
    parquet.write_table(pa.table({"text": TEXTS, "label": LABELS}), path)


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        pytest.param("a.csv", write_csv, TextData.from_csv, id="csv"),
        pytest.param("a.csv", write_utf16, TextData.from_csv, id="csv in UTF-16"),
        pytest.param("a.json", write_jsonl, TextData.from_json, id="json lines"),
        pytest.param("a.json", write_json, TextData.from_json, id="json"),
        pytest.param("a.parquet", write_parquet, TextData.from_parquet, id="parquet"),
    ],
)
def test_every_table_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None], read: Callable[..., TextData]
) -> None:
    """The columns are found by their usual names."""
    write(tmp_path / name)
    data = read(tmp_path / name, val_split=0)
    assert rows(data.stages["train"]) == list(zip(TEXTS, LABELS, strict=True))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("text,label\na fox,\n", "it has no label", id="no label"),
        pytest.param("text,label\n ,fox\n", "the text is empty", id="no text"),
        pytest.param("text,label\na, fox, b\n", "it has 3 fields, the header has 2", id="too many fields"),
    ],
)
def test_a_bad_row_is_left_out(tmp_path: Path, text: str, reason: str) -> None:
    """The other rows are used."""
    (tmp_path / "a.csv").write_text(text + "a fish,fish\n")
    with pytest.warns(UserWarning, match=f"a.csv:2: {reason}"):
        data = TextData.from_csv(tmp_path / "a.csv")
    assert rows(data.stages["train"]) == [("a fish", "fish")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty, expected a header", id="empty"),
        pytest.param(b"text,label\n", "is empty, expected a header and rows", id="header alone"),
        pytest.param(b"text,text,label\na,b,c\n", "has several columns 'text'", id="two columns of one name"),
        pytest.param(b'text,label\n"a fox,fox\n', "is a quote never closed", id="open quote"),
        pytest.param(
            b'text,label\n"a,fox\n"b",fish\n', "is not CSV .*: is a quote never closed", id="quote that a row closes"
        ),
        pytest.param(b"text,label\n\xff\xe9\xe9,fox\n", "is not valid UTF-8", id="encoding"),
        pytest.param(b"title,body,label\na,b,c\n", "name the one with the inputs by input=", id="two columns"),
        pytest.param(b"text,species\na,b\n", "name the one with the labels by label=", id="no label column"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """The error says what to do."""
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv.* {message}"):
        TextData.from_csv(tmp_path / "a.csv")


def test_paths_in_a_table_start_from_its_folder(tmp_path: Path) -> None:
    """A table beside its images may name them by relative paths."""
    write_images(tmp_path, "images/1.png")
    (tmp_path / "a.csv").write_text("image,label\nimages/1.png,3\n")
    data = ImageData.from_csv(tmp_path / "a.csv")
    assert rows(data.stages["train"]) == [(tmp_path / "images/1.png", "3")]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"label": "tags", "label_separator": "|"}, id="one column"),
        pytest.param({"label": ["red", "round"], "input": "text"}, id="columns of 0 and 1"),
    ],
)
def test_a_row_may_have_several_labels(tmp_path: Path, options: dict[str, Any]) -> None:
    """The labels are in one cell, or in a column for each."""
    (tmp_path / "a.csv").write_text("text,tags,red,round\napple,red|round,1,1\nbrick,red,1,0\nsky,,0,0\n")
    data = TextData.from_csv(tmp_path / "a.csv", **options)
    assert data.multi_label
    assert data.labels == ["red", "round"]
    assert ("apple", ("red", "round")) in [row for part in data.stages.values() for row in rows(part)]


def test_numbers_as_labels_keep_their_order() -> None:
    """Class 10 comes after class 9; whole floats, as tables with gaps have them, are written as integers."""
    data = TabularData.from_arrays((np.zeros((3, 2)), np.array([10.0, 9.0, 1.0])))
    assert data.labels == ["1", "9", "10"]


def test_rows_of_numbers_are_all_columns_but_the_labels(tmp_path: Path) -> None:
    """A cell that is not a number leaves its row out."""
    (tmp_path / "a.csv").write_text("x,species,y\n1,a,2\n3,b,4\nfive,a,6\n7,a,nan\n")
    with pytest.warns(UserWarning, match="2 of 4 rows are left out: .*'five', '6'.*are not all numbers"):
        data = TabularData.from_csv(tmp_path / "a.csv", label="species", val_split=0)
    assert [(list(source), label) for source, label in rows(data.stages["train"])] == [([1, 2], "a"), ([3, 4], "b")]


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    """It names the folder, and the form that is expected."""
    with pytest.raises(ValueError, match="no folder at .*missing"):
        ImageData.from_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no folder for each class"):
        ImageData.from_folder(tmp_path)
    with pytest.raises(ValueError, match="TextData got no data: pass train="):
        TextData.from_csv()
    with pytest.raises(ValueError, match="TextData has no rows for train: row 0: the text is empty"):
        TextData.from_arrays(([""], ["a"]))


def test_stray_quotes_are_text(tmp_path: Path) -> None:
    """Inches, and words in quotes at the start of a field."""
    (tmp_path / "a.csv").write_text('text,label\na 5" pipe, pipe\n"red" box,box\n')
    data = TextData.from_csv(tmp_path / "a.csv", val_split=0)
    assert rows(data.stages["train"]) == [('a 5" pipe', "pipe"), ("red box", "box")]


def test_columns_of_json_have_one_length(tmp_path: Path) -> None:
    """A longer column would lose its last rows, or be moved against the labels."""
    (tmp_path / "a.json").write_text('{"text": ["a fox", "a loaf"], "label": ["fox"]}')
    with pytest.raises(ValueError, match=r"a.json has columns of different lengths, {'text': 2, 'label': 1}"):
        TextData.from_json(tmp_path / "a.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_not_texts(tmp_path: Path, number: str) -> None:
    """The text "inf" would be trained on."""
    (tmp_path / "a.jsonl").write_text(f'{{"text": {number}, "label": "x"}}\n{{"text": 7, "label": "y"}}\n')
    with pytest.warns(UserWarning, match="a.jsonl:1: "):
        data = TextData.from_json(tmp_path / "a.jsonl", val_split=0)
    assert rows(data.stages["train"]) == [("7", "y")]


def test_a_number_of_any_size_is_a_text(tmp_path: Path) -> None:
    """JSON has whole numbers that no float can hold."""
    (tmp_path / "a.json").write_text(f'[{{"text": 1{"0" * 400}, "label": "x"}}]')
    data = TextData.from_json(tmp_path / "a.json", val_split=0)
    assert rows(data.stages["train"]) == [("1" + "0" * 400, "x")]


def test_lines_of_json_are_divided_at_line_ends_only(tmp_path: Path) -> None:
    """JSON has other separators, such as U+2028, within strings."""
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c", "label": "fox"}\r\n{"text": "d", "label": "fish"}\n')
    data = TextData.from_json(tmp_path / "a.jsonl", val_split=0)
    assert rows(data.stages["train"]) == [("a\u2028b\x85c", "fox"), ("d", "fish")]


@pytest.mark.parametrize("labels", [np.array([0, 1]), torch.tensor([0, 1]), list(torch.tensor([0, 1]))])
def test_class_indices_are_names(labels: Any) -> None:
    """Of numpy, of torch, and in a list."""
    assert TabularData.from_arrays((torch.zeros(2, 3), labels)).labels == ["0", "1"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param((np.zeros((2, 3)), np.eye(2)), r"got labels of shape \[2, 2\], expected \[rows\]", id="one-hot"),
        pytest.param(([[1, 2], [1, 2, 3]], [0, 1]), r"row 1 has the shape \[3\], and row 0 has \[2\]", id="ragged"),
    ],
)
def test_arrays_of_another_form_are_refused(data: Any, message: str) -> None:
    """The columns of one-hot rows are not class names."""
    with pytest.raises(ValueError, match=message):
        TabularData.from_arrays(data)


def test_an_unknown_option_is_named() -> None:
    """The error lists the options that exist."""
    with pytest.raises(TypeError, match="TextData got the options batchsize, expected among .*batch_size"):
        TextData.from_arrays((["a"], ["x"]), batchsize=3)  # type: ignore[call-arg] # the error of this test


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """To read it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png' is a pipe"):
        image_of(tmp_path / "pipe.png")
