"""Tables and texts in the shapes that other programs write."""

from __future__ import annotations

import bz2
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet

from midrib.remote._files.formats.columns import InputColumns
from midrib.remote._files.items import SourceItem, value_item
from midrib.remote._files.sources import Sources
from midrib.remote._files.storage import Downloads
from midrib.wire import InvalidInputError

TEXTS = ["a cat sleeps", "the bank raised rates", "leaves"]
CSV = "id,text\n" + "".join(f"r{number},{text}\n" for number, text in enumerate(TEXTS))
JSONL = "".join(f'{{"id": "r{number}", "text": "{text}"}}\n' for number, text in enumerate(TEXTS))


def read(*inputs: Path) -> list[SourceItem]:
    with Downloads() as downloads:
        return list(Sources(inputs, InputColumns(), downloads).items())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(("name", "content"), [("t.csv", CSV), ("t.jsonl", JSONL)], ids=["csv", "jsonl"])
def test_a_table_has_the_same_rows_in_every_encoding(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    """Byte order marks and the line ends of Windows do not change the rows."""
    (tmp_path / name).write_bytes(content.replace("\n", "\r\n").encode(encoding))
    items = read(tmp_path / name)
    assert [(item.id, item.value, item.error) for item in items] == [
        ("r0", TEXTS[0], None),
        ("r1", TEXTS[1], None),
        ("r2", TEXTS[2], None),
    ]


def test_a_binary_file_is_refused_by_its_encoding(tmp_path: Path) -> None:
    """A picture that was named .txt."""
    (tmp_path / "t.txt").write_bytes(b"\x89PNG\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0")
    with pytest.raises(InvalidInputError, match="not text in UTF-8 or UTF-16: save it with encoding UTF-8"):
        read(tmp_path / "t.txt")


@pytest.mark.parametrize("separator", [";", "\t", "|"], ids=["semicolon", "tab", "bar"])
def test_the_separator_is_found_by_the_header(tmp_path: Path, separator: str) -> None:
    """Excel writes semicolons in half of Europe."""
    (tmp_path / "t.csv").write_text(separator.join(["id", "text"]) + "\n" + separator.join(["r0", "a, b"]) + "\n")
    assert [(item.id, item.value) for item in read(tmp_path / "t.csv")] == [("r0", "a, b")]


@pytest.mark.parametrize(
    ("name", "content", "values", "error"),
    [
        pytest.param("t.csv", 'id,text\n1,"one\n2,two\n3,three\n', ["two", "three"], "never closed", id="open quote"),
        pytest.param("t.csv", "id,text\n1,one,more\n2,two\n", ["two"], "has 3 fields, the header has 2", id="long row"),
        pytest.param("t.jsonl", '{"text": true}\n{"text": "two"}\n', ["two"], "is a bool, expected", id="a boolean"),
        pytest.param("t.jsonl", '{"text": [1]}\n{"text": "two"}\n', ["two"], "is a list, expected", id="a list"),
        pytest.param("t.jsonl", '{"text": NaN}\n{"text": "two"}\n', ["two"], "no value", id="NaN"),
        pytest.param(
            "t.jsonl",
            '{"text": ' + "[" * 100_000 + "]" * 100_000 + '}\n{"text": "two"}\n',
            ["two"],
            "nested too deeply",
            id="nested",
        ),
    ],
)
def test_a_row_that_cannot_be_read_costs_only_itself(
    tmp_path: Path, name: str, content: str, values: list[str], error: str
) -> None:
    """It carries its error, and the rows after it are read."""
    (tmp_path / name).write_text(content)
    bad, *good = read(tmp_path / name)
    assert error in str(bad.error)
    assert [item.value for item in good] == values


def test_a_field_may_be_a_whole_document(tmp_path: Path) -> None:
    """The csv module's own limit is 131,072 characters."""
    (tmp_path / "t.csv").write_text(f"id,text\n1,{'word ' * 40_000}\n2,two\n")
    assert [len(item.value) for item in read(tmp_path / "t.csv")] == [200_000, 3]


def test_a_quoted_field_may_have_lines(tmp_path: Path) -> None:
    """It may have doubled quotes too; a stray quote is a character."""
    (tmp_path / "t.csv").write_text('id,text\n1,"a\n""b"""\n2,"two" and more\n')
    assert [item.value for item in read(tmp_path / "t.csv")] == ['a\n"b"', "two and more"]


def test_an_id_is_always_printable(tmp_path: Path) -> None:
    """Formats hold UTF-8 only, and file systems any bytes."""
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("one\n")
    (item,) = read(path)
    assert item.id.endswith("caf\\udce9.txt:0")


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    """Class folders are often links; a link to a folder above ends nowhere. Metadata files of macOS are ignored."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "real" / "._a.png").touch()
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "classes")
    items = read(tmp_path / "classes")
    assert [Path(item.id).relative_to(tmp_path).as_posix() for item in items] == ["classes/cat/a.png"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["t.txt", "t.csv"])
def test_chinese_in_utf_16_is_recognised_without_a_mark(tmp_path: Path, name: str, encoding: str) -> None:
    """Its letters have no NUL bytes, only its line ends have."""
    (tmp_path / name).write_bytes(
        "text\n".encode(encoding) * (name == "t.csv") + ("猫が寝ている\n" * 9).encode(encoding)
    )
    assert [item.value for item in read(tmp_path / name)] == ["猫が寝ている"] * 9


def test_an_open_quote_that_another_row_closes_costs_its_row(tmp_path: Path) -> None:
    """The two rows are not read as one."""
    (tmp_path / "t.csv").write_text('id,text\n1,"one\n2,"two"\n3,"three"\n')
    bad, *good = read(tmp_path / "t.csv")
    assert "never closed" in str(bad.error)
    assert [(item.id, item.value) for item in good] == [("2", "two"), ("3", "three")]


def test_text_of_parquet_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    """Programs that write Parquet do not check it; an id is escaped."""
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a\xff", b"b"]).buffers())
    parquet.write_table(pa.table({"id": broken, "text": ["one", "two"]}), tmp_path / "ids.parquet")
    parquet.write_table(pa.table({"id": ["x", "y"], "text": broken}), tmp_path / "texts.parquet")
    assert [(item.id, item.value) for item in read(tmp_path / "ids.parquet")] == [("a\\udcff", "one"), ("b", "two")]
    assert [(item.id, item.error is None) for item in read(tmp_path / "texts.parquet")] == [("x", False), ("y", True)]


@pytest.mark.parametrize("suffix", [".avif", ".heic", ".heif", ".ppm", ".pgm"])
def test_all_image_formats_of_a_folder_are_items(tmp_path: Path, suffix: str) -> None:
    """Of HEIC it is said later if it cannot be read here."""
    (tmp_path / f"a{suffix}").touch()
    assert [(item.id, item.kind) for item in read(tmp_path)] == [((tmp_path / f"a{suffix}").as_posix(), "images")]


@pytest.mark.parametrize("value", [{"bytes": None, "path": None}, {"bytes": b"", "path": ""}, {"path": 3}], ids=str)
def test_a_record_of_a_file_without_content_is_a_row_without_a_value(value: dict[str, Any]) -> None:
    """It costs its row, not the run."""
    assert value_item("row", value).error == "the row has no value in this column"


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        pytest.param("t.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer", id="pointer"),
        pytest.param(
            "t.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS", id="pointer-parquet"
        ),
        pytest.param("t.csv", b"\x1f\x8b\x08\0", "is compressed: unpack it first", id="gzip-named-csv"),
        pytest.param("t.csv.gz", b"\x1f\x8b\x08\0", "is compressed: unpack it first", id="gzip"),
        pytest.param("t.txt", bz2.compress(b"leaves"), "is compressed: unpack it first", id="bzip2-named-txt"),
        pytest.param("t.jsonl.zst", b"\x28\xb5\x2f\xfd", "is compressed: unpack it first", id="zstandard"),
    ],
)
def test_a_file_that_is_not_a_table_is_named(tmp_path: Path, name: str, content: bytes, remedy: str) -> None:
    """The error names the file; it is not read as a table whose rows are all bad."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"{name} {remedy}"):
        read(tmp_path / name)


def test_a_text_that_begins_like_a_compressed_file_is_read(tmp_path: Path) -> None:
    """The first letters of bzip2 are printable."""
    (tmp_path / "t.txt").write_text("BZh1 is the mark of bzip2\n")
    assert [item.value for item in read(tmp_path / "t.txt")] == ["BZh1 is the mark of bzip2"]


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The system's error is not the user's."""
    (tmp_path / "t.csv").symlink_to("/proc/self/mem")
    with pytest.raises(InvalidInputError, match=r"t\.csv cannot be read \(Input/output error\): check the file"):
        read(tmp_path / "t.csv")


def test_a_path_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    """A text in place of a file."""
    with pytest.raises(InvalidInputError, match=r"no file or folder at x+ \(File name too long\)"):
        read(Path("x" * 5000))


def test_a_number_of_too_many_digits_is_a_bad_row(tmp_path: Path) -> None:
    """Its error does not advise the user to change Python's limit."""
    (tmp_path / "t.jsonl").write_text('{"text": ' + "9" * 5000 + '}\n{"text": "b"}\n')
    assert [item.error for item in read(tmp_path / "t.jsonl")] == [
        "it is not read: it holds a number of more than 4300 digits",
        None,
    ]


def test_an_empty_id_is_not_a_name(tmp_path: Path) -> None:
    """Several rows could have it."""
    (tmp_path / "t.csv").write_text("id,text\n,one\n,two\n")
    assert [item.id for item in read(tmp_path / "t.csv")] == [f"{tmp_path}/t.csv:{row}" for row in range(2)]


@pytest.mark.parametrize("dtype", ["complex64", "U1", "datetime64[s]"])
def test_an_array_of_other_values_than_numbers_is_refused(tmp_path: Path, dtype: str) -> None:
    """The error comes before the backbone loads."""
    np.save(tmp_path / "t.npy", np.zeros((2, 3), dtype))
    with pytest.raises(InvalidInputError, match=r"t\.npy has dtype .*, expected real numbers: convert it"):
        read(tmp_path / "t.npy")
