"""Inputs and outputs that go wrong in the ways that files do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet

from midrib.remote import Progress, embed_files
from midrib.wire import Array, InvalidInputError


class Lengths:
    """Embeds a value as the length of its text."""

    name, revision, num_features = "test/lengths", "r1", 1

    def __call__(self, kind: str, values: list[Any]) -> Array:
        return np.array([[len(str(value))] for value in values], np.float32)


class FileSizes(Lengths):
    """Embeds a file as its size."""

    def __call__(self, kind: str, values: list[Any]) -> Array:
        return np.array([[len(path.read_bytes())] for path in values], np.float32)


def ids_of(out: Path) -> list[str]:
    ids: list[str] = json.loads(out.with_name(out.name + ".json").read_text())["ids"]
    return ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", b"", id="empty CSV"),
        pytest.param("t.csv", b"id,text\n", id="header only"),
        pytest.param("t.csv", b"\xef\xbb\xbfid,text\r\n\r\n", id="header and an empty line"),
        pytest.param("t.jsonl", b"\n\n", id="empty lines"),
        pytest.param("t.txt", b"", id="empty text"),
    ],
)
def test_inputs_without_items_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """The error comes before the backbone loads, and no folder of chunks is left."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match="the inputs hold no items"):
        embed_files(Lengths, [tmp_path / name], tmp_path / "out.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_the_separator_that_excel_declares_is_used(tmp_path: Path) -> None:
    """Its line, sep=;, is not the header."""
    (tmp_path / "t.csv").write_bytes(b"sep=;\r\nid;text\r\nx;a,b\r\n")
    embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.npy")
    assert ids_of(tmp_path / "out.npy") == ["x"]
    assert np.load(tmp_path / "out.npy").tolist() == [[3]]


def test_an_infinite_number_is_a_bad_row(tmp_path: Path) -> None:
    """Its text, "inf", would be embedded as a word."""
    (tmp_path / "t.jsonl").write_text('{"text": Infinity}\n{"text": "a"}\n')
    embed_files(Lengths(), [tmp_path / "t.jsonl"], tmp_path / "out.npy")
    assert ids_of(tmp_path / "out.npy") == [f"{tmp_path}/t.jsonl:1"]
    assert "the value is infinite" in (tmp_path / "out.npy.bad.jsonl").read_text()


def test_a_header_with_spaces_is_shown_in_quotes(tmp_path: Path) -> None:
    """The quotes show the user why the column is not found."""
    (tmp_path / "t.csv").write_text(" text ,id\nab,1\n")
    with pytest.raises(InvalidInputError, match="no column 'text': it has ' text ', 'id'"):
        embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.npy")


def test_a_parquet_table_without_rows_is_refused(tmp_path: Path) -> None:
    """It has the column, and no items."""
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInputError, match="the inputs hold no items"):
        embed_files(Lengths(), [tmp_path / "t.parquet"], tmp_path / "out.npy")


@pytest.mark.parametrize("name", ["t.parquet", "t.npy"])
def test_a_damaged_binary_file_is_named(tmp_path: Path, name: str) -> None:
    """Cut in the middle, as a copy that was interrupted leaves it."""
    np.save(tmp_path / "t.npy", np.ones((100, 4), np.float32))
    parquet.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "t.parquet")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInputError, match=f"{name} cannot be read as"):
        embed_files(Lengths(), [tmp_path / name], tmp_path / "out.npy")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_recognised_without_a_mark(tmp_path: Path, encoding: str) -> None:
    """The positions of NUL bytes tell UTF-16 and UTF-32 apart."""
    (tmp_path / "t.csv").write_bytes("id;text\r\n1;a cät\r\n".encode(encoding))
    embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.npy")
    assert (ids_of(tmp_path / "out.npy"), np.load(tmp_path / "out.npy").tolist()) == (["1"], [[5]])


def test_a_nul_in_a_text_file_is_a_character(tmp_path: Path) -> None:
    """A NUL does not end a text, because exports of databases contain some."""
    (tmp_path / "t.csv").write_bytes(b"id,text\n1,a\0b\n2,cd\n")
    embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[3], [2]]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", "id,text,text\n1,a,b\n"), ("t.csv", "id,id,text\n1,2,b\n")],
    ids=["the text", "the id"],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str, content: str) -> None:
    """Only one of them would be embedded."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match="has 2 columns '(text|id)': rename all but one of them"):
        embed_files(Lengths(), [tmp_path / name], tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("record", "item_id"),
    [
        pytest.param('{"id": 7, "text": "a"}', "7", id="integer"),
        pytest.param('{"id": 1.5, "text": "a"}', "1.5", id="number"),
        pytest.param('{"id": ["a", 1], "text": "a"}', '["a", 1]', id="list"),
        pytest.param('{"id": NaN, "text": "a"}', "t.jsonl:0", id="NaN"),
        pytest.param('{"id": null, "text": "a"}', "t.jsonl:0", id="null"),
    ],
)
def test_ids_of_any_type_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str, item_id: str) -> None:
    """A row without an id is named by its place in the file."""
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text(record + "\n")
    embed_files(Lengths(), ["t.jsonl"], "out.npy")
    assert ids_of(Path("out.npy")) == [item_id]


def test_ids_of_any_length_are_kept(tmp_path: Path) -> None:
    """An id of megabytes beside short ones, and one that ends in a NUL, are unchanged."""
    ids = ["x" * 10_000_000, "a\0", *map(str, range(200))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"id": item_id, "text": "a"}) + "\n" for item_id in ids))
    embed_files(Lengths(), [tmp_path / "t.jsonl"], tmp_path / "out.npy")
    assert ids_of(tmp_path / "out.npy") == ids


def test_repeated_ids_keep_all_their_rows(tmp_path: Path) -> None:
    """Rows with the same id stay in the order of the inputs."""
    (tmp_path / "t.csv").write_text("id,text\na,x\na,yy\n")
    assert embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.npy") == Progress(2, 0, 0, 2)
    assert (ids_of(tmp_path / "out.npy"), np.load(tmp_path / "out.npy").tolist()) == (["a", "a"], [[1], [2]])


def test_a_row_may_lack_the_column_that_others_have(tmp_path: Path) -> None:
    """A row without the column is a bad row, even if it is the first; the column name is not wrong."""
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n{"id": 2, "text": "b"}\n')
    assert embed_files(Lengths(), [tmp_path / "t.jsonl"], tmp_path / "out.npy") == Progress(2, 1, 0, 2)


def test_dictionary_encoded_texts_are_texts(tmp_path: Path) -> None:
    """pandas writes categories so."""
    texts = pa.array(["ab", "c", "ab"]).dictionary_encode()
    parquet.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
    embed_files(Lengths(), [tmp_path / "t.parquet"], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [[2], [1], [2]]


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Its last row may be half a row."""
    path = tmp_path / "t.txt"
    path.write_text("one\n")

    def grow() -> Lengths:
        path.write_text("one\ntwo\n")
        return Lengths()

    with pytest.raises(InvalidInputError, match=r"t\.txt changed while it was read: run again"):
        embed_files(grow, [path], tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_a_folder_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """The output would not hold all of it, or more than was counted."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()

    def grow() -> Lengths:
        (tmp_path / "in" / "b.png").touch()
        return Lengths()

    with pytest.raises(InvalidInputError, match="changed while they were read, from 1 to 2 items: run again"):
        embed_files(grow, [tmp_path / "in"], tmp_path / "out.npy")


@pytest.mark.parametrize("out", ["file.txt/out.npy", "file.txt/deeper/out.npy"])
def test_an_output_below_a_file_is_refused_at_once(tmp_path: Path, out: str) -> None:
    """The error comes before the backbone loads."""

    def load() -> Lengths:
        raise AssertionError("loaded too early")

    (tmp_path / "file.txt").write_text("one\n")
    with pytest.raises(InvalidInputError, match="file.txt is not a folder that you may write to"):
        embed_files(load, [tmp_path / "file.txt"], tmp_path / out)


def test_the_list_of_bad_items_of_an_earlier_run_goes(tmp_path: Path) -> None:
    """It would list items that are good now."""
    path, listing = tmp_path / "t.jsonl", tmp_path / "out.npy.bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n')
    embed_files(Lengths(), [path], tmp_path / "out.npy")
    assert listing.exists()
    path.write_text('{"text": "a"}\n')
    embed_files(Lengths(), [path], tmp_path / "out.npy")
    assert not listing.exists()


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    """The chunks stay, so that the same command continues once there is room."""
    out = tmp_path / f"out{suffix}"
    (tmp_path / "t.txt").write_text("one\n")
    unfinished = tmp_path / f".out{suffix}.unfinished"
    unfinished.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*: free some space or .* run the same command again to resume"):
        embed_files(Lengths(), [tmp_path / "t.txt"], out)
    assert (out.exists(), unfinished.is_symlink()) == (False, False)
    assert embed_files(Lengths(), [tmp_path / "t.txt"], out).resumed == 1


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """It cannot be read twice."""
    os.mkfifo(tmp_path / "t.txt")
    with pytest.raises(InvalidInputError, match="no file or folder at"):
        embed_files(Lengths(), [tmp_path / "t.txt"], tmp_path / "out.npy")


def test_a_path_to_a_pipe_is_a_bad_row(tmp_path: Path) -> None:
    """To read it would wait for ever. A missing file costs its row too."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "good.png").write_bytes(b"a picture")
    names = ("pipe.png", "missing.png", "good.png")
    rows = [json.dumps({"id": name, "text": {"path": str(tmp_path / name)}}) for name in names]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    embed_files(FileSizes(), [tmp_path / "t.jsonl"], tmp_path / "out.npy")
    assert (ids_of(tmp_path / "out.npy"), np.load(tmp_path / "out.npy").tolist()) == (["good.png"], [[9]])
    assert f"no file at {tmp_path}/pipe.png" in (tmp_path / "out.npy.bad.jsonl").read_text()


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), } {", id="open brace"),
        pytest.param(b"{'descr': '<f4', 'fortran_order': False, 'shape': 4\0}", id="NUL"),
        pytest.param(
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 3), }", id="larger than its file"
        ),
    ],
)
def test_a_damaged_array_header_is_one_sentence(tmp_path: Path, header: bytes) -> None:
    """numpy raises errors of Python's parser for some."""
    padded = header.ljust(117) + b"\n"
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(48))
    with pytest.raises(InvalidInputError, match=r"t\.npy cannot be read as \.npy"):
        embed_files(Lengths(), [tmp_path / "t.npy"], tmp_path / "out.npy")


def test_kept_values_are_always_printable(tmp_path: Path) -> None:
    """Parquet holds UTF-8 only, and a CSV file any bytes."""
    (tmp_path / "t.csv").write_bytes(b"text,kept\na,caf\xe9\n")
    embed_files(Lengths(), [tmp_path / "t.csv"], tmp_path / "out.parquet", keep=["kept"])
    assert parquet.read_table(tmp_path / "out.parquet")["kept"].to_pylist() == ["caf\\udce9"]
