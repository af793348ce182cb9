"""Tables of Arrow and Parquet: the same rows as from CSV, or an error that names the file and the column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import feather, ipc, parquet

from midrib.registry import TextInput
from midrib.task import TextData
from midrib.task._data.columns import Columns
from midrib.task._data.kinds import TEXTS
from midrib.task._data.locations import data_at, items_at

ROWS = [("a fox", "animal"), ("a loaf", "food"), ("a wolf", "animal")]
TEXT, LABEL = (list(column) for column in zip(*ROWS, strict=True))


def table(**columns: Any) -> pa.Table:
    return pa.table({"text": TEXT, "label": LABEL, **columns})


def write_file(content: pa.Table, path: Path) -> None:
    with ipc.new_file(path, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)


def write_stream(content: pa.Table, path: Path) -> None:
    with ipc.new_stream(path, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)


def write_feather(content: pa.Table, path: Path) -> None:
    feather.write_feather(content, str(path), compression="zstd")


FORMATS: list[Any] = [
    pytest.param("a.arrow", write_file, id="file"),
    pytest.param("a.arrow", write_stream, id="stream"),
    pytest.param("a.arrows", write_stream, id="arrows"),
    pytest.param("a.ipc", write_file, id="ipc"),
    pytest.param("a.feather", write_feather, id="feather-compressed"),
    pytest.param("a.parquet", parquet.write_table, id="parquet"),
]
Write = Callable[[pa.Table, Path], None]


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_path_gives_the_rows_of_its_format(tmp_path: Path, name: str, write: Write) -> None:
    """`midrib train` and `midrib predict` take the formats that `midrib embed` takes."""
    write(table(), tmp_path / name)
    train = data_at(tmp_path / name, TEXTS, val=None, test=None, options={"val_split": 0}).stages["train"]
    assert list(zip(train.sources, train.labels, strict=True)) == ROWS
    assert list(items_at(tmp_path / name, TextInput(8)).sources) == TEXT


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_texts_of_every_type_are_texts(tmp_path: Path, kind: pa.DataType) -> None:
    """Writers choose among them by size."""
    write_file(table(text=pa.array(TEXT).cast(kind)), tmp_path / "a.arrow")
    assert list(TextData.from_arrow(tmp_path / "a.arrow", val_split=0).stages["train"].sources) == TEXT


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_column_that_is_not_used_need_not_be_readable(tmp_path: Path, name: str, write: Write) -> None:
    """Python's times end in the year 9999."""
    far = pa.array([10**18] * len(ROWS), pa.timestamp("us"))
    write(table(time=far), tmp_path / name)
    assert len(items_at(tmp_path / name, TextInput(8), Columns("text"))) == len(ROWS)
    with pytest.raises(ValueError, match=f"column 'time' of .*{name} cannot be read"):
        items_at(tmp_path / name, TextInput(8), Columns("time"))


def broken_texts() -> pa.Array:
    return pa.Array.from_buffers(pa.string(), 3, pa.array([b"a\xff", b"b", b"c"]).buffers())


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_text_that_is_not_utf8_is_named(tmp_path: Path, name: str, write: Write) -> None:
    """Programs that write these formats do not check it."""
    write(table(text=broken_texts()), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} holds text that is not valid UTF-8, in column 'text'"):
        items_at(tmp_path / name, TextInput(8))


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_a_cut_file_is_an_error(tmp_path: Path, name: str, write: Write) -> None:
    """A file that ends early, as after a failed download, is not read as a shorter table."""
    write(table(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read as (Arrow|Parquet)"):
        items_at(tmp_path / name, TextInput(8))


@pytest.mark.parametrize("write", [write_file, write_stream, parquet.write_table])
def test_two_columns_of_one_name_are_an_error(tmp_path: Path, write: Write) -> None:
    """The formats allow two columns of one name, and the caller's choice is unknown."""
    suffix = "parquet" if write is parquet.write_table else "arrow"
    twice = pa.Table.from_arrays([pa.array(TEXT), pa.array(LABEL)], names=["text", "text"])
    write(twice, tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match=f"a.{suffix} has several columns 'text': give each a name"):
        items_at(tmp_path / f"a.{suffix}", TextInput(8))


def test_feather_of_version_1_is_refused(tmp_path: Path) -> None:
    """pyarrow deprecates it; its texts are limited."""
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(64))
    with pytest.raises(ValueError, match="a.feather is of version 1 of Feather, expected 2: write it again"):
        items_at(tmp_path / "a.feather", TextInput(8))
