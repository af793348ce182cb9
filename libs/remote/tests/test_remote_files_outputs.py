"""The files of an output replace nothing by mistake, and belong together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet  # type: ignore[import-untyped] # it has no types

from midrib.remote import embed_files
from midrib.remote._files import writers
from midrib.wire import Array, InvalidInputError


class Lengths:
    """Embeds a value as the length of its text."""

    name, revision, num_features = "test/lengths", "r1", 1

    def __call__(self, kind: str, values: list[Any]) -> Array:
        return np.array([[len(str(value))] for value in values], np.float32)


@pytest.mark.parametrize("link", [False, True], ids=["itself", "a link"])
def test_an_output_that_is_an_input_is_refused(tmp_path: Path, link: bool) -> None:
    """The run would replace the data by their features."""
    np.save(tmp_path / "t.npy", np.ones((2, 3), np.float32))
    out = tmp_path / ("link.npy" if link else "t.npy")
    os.link(tmp_path / "t.npy", tmp_path / "link.npy")
    with pytest.raises(InvalidInputError, match=r"output .*t\.npy is one of the inputs: name another file"):
        embed_files(Lengths(), [tmp_path / "t.npy"], out)
    assert np.load(tmp_path / "t.npy").shape == (2, 3)


@pytest.mark.parametrize(("full", "left"), [("out.npy", ["a"]), ("out.npy.json", [])], ids=["rows", "ids"])
def test_ids_never_name_the_rows_of_another_array(tmp_path: Path, full: str, left: list[str]) -> None:
    """The disk is full while one of the two files of an earlier output is replaced."""
    path, beside = tmp_path / "t.jsonl", tmp_path / "out.npy.json"
    path.write_text('{"id": "a", "text": "one"}\n')
    embed_files(Lengths(), [path], tmp_path / "out.npy")
    path.write_text('{"id": "b", "text": "eleven"}\n')
    (tmp_path / f".{full}.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write"):
        embed_files(Lengths(), [path], tmp_path / "out.npy")
    assert [item_id for file in tmp_path.glob(beside.name) for item_id in json.loads(file.read_text())["ids"]] == left


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.safetensors"])
def test_the_bytes_of_an_output_do_not_depend_on_its_chunks(tmp_path: Path, name: str) -> None:
    """A run that was killed and resumed has other chunks than an undisturbed one."""
    table = tmp_path / "t.csv"
    table.write_text("id,text,kind\n" + "".join(f"{row},{'x' * (row % 97 + 1)},{row % 7}\n" for row in range(600)))
    outputs = []
    for chunk_items in (7, 64, 600):
        embed_files(Lengths(), [table], tmp_path / name, keep=["kind"], chunk_items=chunk_items)
        outputs.append((tmp_path / name).read_bytes())
        (tmp_path / name).unlink()
    assert outputs[0] == outputs[1] == outputs[2]


def test_rows_are_joined_in_large_groups_of_parquet(tmp_path: Path) -> None:
    """Readers are slow on a file of many small groups."""
    (tmp_path / "t.txt").write_text("one\n" * 3000)
    embed_files(Lengths(), [tmp_path / "t.txt"], tmp_path / "out.parquet", chunk_items=10)
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1


def test_groups_of_parquet_are_limited_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is held in memory."""
    monkeypatch.setattr(writers, "_GROUP_BYTES", 1)
    (tmp_path / "t.txt").write_text("one\n" * 600)
    embed_files(Lengths(), [tmp_path / "t.txt"], tmp_path / "out.parquet")
    metadata = parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(3)] == [256, 256, 88]


def test_a_safetensors_header_above_the_librarys_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished chunks become a Parquet file instead."""
    monkeypatch.setattr(writers, "_MAX_HEADER_BYTES", 100)
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    with pytest.raises(InvalidInputError, match="rename out.safetensors.parts to out.parquet.parts, and run again"):
        embed_files(Lengths(), [tmp_path / "t.txt"], tmp_path / "out.safetensors")
    (tmp_path / "out.safetensors.parts").rename(tmp_path / "out.parquet.parts")
    embed_files(Lengths(), [tmp_path / "t.txt"], tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 2
