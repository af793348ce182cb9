"""Arrow and Feather files as inputs, and values of Arrow that Python's types cannot hold."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import feather, ipc, parquet

from midrib.remote._files.formats.columns import InputColumns
from midrib.remote._files.items import SourceItem
from midrib.remote._files.sources import Sources
from midrib.remote._files.storage import Downloads
from midrib.wire import InvalidInputError

TABLE = pa.table({"id": ["a", "b", "c"], "text": ["one", "two", "three"], "number": [1, 2, 3]})


def read(path: Path, *keep: str, column: str = "text") -> list[SourceItem]:
    with Downloads() as downloads:
        return list(Sources([path], InputColumns(column, kept=keep), downloads).items())


def write_file(path: Path, table: Any = TABLE, compression: str | None = None) -> Path:
    options = ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return path


def write_stream(path: Path, table: Any = TABLE) -> Path:
    """The format of Hugging Face's data sets, in batches of two rows."""
    with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def write_feather(path: Path) -> Path:
    feather.write_feather(TABLE, str(path))
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        pytest.param(write_file, "t.arrow", id="file"),
        pytest.param(lambda path: write_file(path, compression="zstd"), "t.ipc", id="compressed-file"),
        pytest.param(write_stream, "t.arrow", id="stream"),
        pytest.param(write_stream, "t.arrows", id="stream-by-its-suffix"),
        pytest.param(write_feather, "t.feather", id="feather"),
    ],
)
def test_the_rows_of_arrow_are_those_of_parquet(tmp_path: Path, write: Callable[[Path], Path], name: str) -> None:
    """Both formats give the same ids, texts and kept columns."""
    parquet.write_table(TABLE, tmp_path / "t.parquet")
    assert read(write(tmp_path / name), "number") == read(tmp_path / "t.parquet", "number")
    assert [item.kept for item in read(tmp_path / name, "number")] == [{"number": 1}, {"number": 2}, {"number": 3}]


def cut(path: Path) -> Path:
    write_stream(path)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def old_feather(path: Path) -> Path:
    path.write_bytes(b"FEA1\0\0\0\0FEA1")
    return path


def damaged_offsets(path: Path) -> Path:
    """A text that would begin outside its buffer: reading it would end the process."""
    offsets = pa.py_buffer(np.array([0, 3_000_000, 5, 8], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abcdefgh")])
    return write_file(path, pa.table({"text": texts}))


def unknown_categories(path: Path) -> Path:
    indices = pa.array([0, 99], pa.int8())
    texts = pa.DictionaryArray.from_arrays(indices, ["x", "y"], safe=False)
    return write_file(path, pa.table({"text": texts}))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(cut, "cannot be read as Arrow: Expected to read", id="cut"),
        pytest.param(old_feather, "is of version 1 of Feather, expected 2", id="feather-1"),
        pytest.param(damaged_offsets, "cannot be read as Arrow: .*out of bounds", id="offsets"),
        pytest.param(unknown_categories, "cannot be read as Arrow: .*out of bounds", id="categories"),
    ],
)
def test_damaged_arrow_is_an_error(tmp_path: Path, write: Callable[[Path], Path], message: str) -> None:
    """It names the file; pyarrow reads such offsets without looking at them."""
    with pytest.raises(InvalidInputError, match=f"t.arrow {message}"):
        read(write(tmp_path / "t.arrow"))


def test_a_text_that_is_not_utf8_spoils_only_its_row(tmp_path: Path) -> None:
    """The row is listed as bad and the others are embedded, as for Parquet."""
    offsets = pa.py_buffer(np.array([0, 3, 5, 8], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc\xff\xfeghi")])
    items = read(write_file(tmp_path / "t.arrow", pa.table({"text": texts})))
    assert [item.value for item in items if item.error is None] == ["abc", "ghi"]


def test_a_folder_of_tables_is_an_error(tmp_path: Path) -> None:
    """A folder is read for its pictures and sounds: a divided data set would have been left out."""
    write_file(tmp_path / "part-0.arrow")
    with pytest.raises(InvalidInputError, match=r"holds no images or sounds but 1 tables, such as .*part-0\.arrow"):
        read(tmp_path)


NANOSECONDS: Any = pa.timestamp("ns")
TIMES: list[Any] = [
    pytest.param(pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001", id="nanoseconds"),
    pytest.param(pa.array([1000], pa.timestamp("ns")), datetime.datetime(1970, 1, 1, 0, 0, 0, 1), id="microseconds"),
    pytest.param(pa.array([10**13], pa.timestamp("s")), str(10**16), id="year-too-large"),
    pytest.param(pa.array([2**30], pa.date32()), str(2**30), id="date-too-large"),
    pytest.param(pa.array([123456789], pa.time64("ns")), "00:00:00.123456789", id="time-of-day"),
    pytest.param(pa.array([1], pa.duration("ns")), "1", id="duration"),
    pytest.param(pa.array([5], pa.timestamp("us", "Mars/Base")), "5", id="unknown-zone"),
    pytest.param(pa.array([[1]], pa.list_(NANOSECONDS)), ["1970-01-01 00:00:00.000000001"], id="in-a-list"),
    pytest.param(
        pa.array([{"at": 1, "by": "me"}], pa.struct([("at", NANOSECONDS), ("by", pa.string())])),
        {"at": "1970-01-01 00:00:00.000000001", "by": "me"},
        id="in-a-struct",
    ),
    pytest.param(
        pa.array([[("at", 1)]], pa.map_(pa.string(), NANOSECONDS)),
        [["at", "1970-01-01 00:00:00.000000001"]],
        id="in-a-map",
    ),
]


@pytest.mark.parametrize(("values", "kept"), TIMES)
def test_times_that_python_cannot_hold_are_kept_as_text(tmp_path: Path, values: Any, kept: object) -> None:
    """pandas writes nanoseconds: they ended the run, and must not be rounded in silence."""
    parquet.write_table(pa.table({"text": ["one"], "time": values}), tmp_path / "t.parquet")
    assert [item.kept for item in read(tmp_path / "t.parquet", "time")] == [{"time": kept}]


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.date32(), pa.duration("ns"), pa.time64("us")], ids=str)
@pytest.mark.parametrize("write", [write_file, lambda path, table: parquet.write_table(table, path) or path])
def test_a_column_of_times_is_not_embedded(tmp_path: Path, write: Any, kind: Any) -> None:
    """Some of its values would be texts, such as 1 ns, and the others bad rows."""
    suffix = "arrow" if write is write_file else "parquet"
    path = write(tmp_path / f"a.{suffix}", pa.table({"text": pa.array([0, 1], kind)}))
    with pytest.raises(InvalidInputError, match=f"column 'text' of .*a.{suffix} holds .*, expected texts, images"):
        read(path)


NOT_UTF8 = pa.array([b"\xffone", b"two"])


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(NOT_UTF8.view(pa.string()), id="string"),
        pytest.param(NOT_UTF8.cast(pa.binary_view()).view(pa.string_view()), id="string view"),
        pytest.param(pa.DictionaryArray.from_arrays(pa.array([0, 1]), NOT_UTF8.view(pa.string())), id="dictionary"),
    ],
)
def test_a_text_that_is_not_utf8_fails_alone_in_every_layout(tmp_path: Path, texts: Any) -> None:
    """The run goes on with the other rows."""
    items = read(write_file(tmp_path / "t.arrow", pa.table({"text": texts})))
    assert [item.error is None for item in items] == [False, True]
    assert items[1].value == "two"


def test_a_path_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    """It is inside of Hugging Face's {bytes, path}."""
    images = pa.StructArray.from_arrays([pa.array([b"\xff\xd8", None]), NOT_UTF8.view(pa.string())], ["bytes", "path"])
    items = read(write_file(tmp_path / "t.arrow", pa.table({"text": images})))
    assert (items[0].value, getattr(items[1].value, "name", None)) == (b"\xff\xd8", "two")


def test_a_path_with_a_nul_fails_alone(tmp_path: Path) -> None:
    """Python's file functions raise ValueError for it, not OSError."""
    images = pa.table({"text": [{"bytes": None, "path": "a\0b.png"}]})
    (item,) = read(write_file(tmp_path / "t.arrow", images))
    assert "null" in item.value.stamp()
    with pytest.raises(InvalidInputError, match="no file at a.b.png: check the path"):
        item.load()


def test_of_many_columns_the_most_similar_are_shown(tmp_path: Path) -> None:
    """A list of ten thousand names hides the one that was meant."""
    table = pa.table({**{f"c{number}": [1] for number in range(10_000)}, "texts": ["one"]})
    with pytest.raises(InvalidInputError, match=r"no column 'text': it has 'texts', 'c0', .*'c48' and 9951 others$"):
        read(write_file(tmp_path / "t.arrow", table))
