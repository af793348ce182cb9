"""Kept columns, and the options of the stored features."""

from __future__ import annotations

import datetime
import decimal
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet
from safetensors import safe_open

from midrib.remote import embed_files
from midrib.remote._files.chunks import ChunkStore
from midrib.remote._files.storage import output_at
from midrib.wire import Array, InvalidInputError, PermissionDeniedError

PLAIN = {"backbone": "test/ramp", "revision": "r1", "prompt": ""}
NAMED = {**PLAIN, "prompt_name": "query"}


class Ramp:
    """Embeds each value as (3, 4, length of the text)."""

    name, revision, num_features = "test/ramp", "r1", 3

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, kind: str, values: list[Any]) -> Array:
        self.values += values
        return np.array([[3, 4, len(str(value))] for value in values], np.float32)


class RefusedAfter(Ramp):
    """Embeds some calls, and refuses the later ones as a server refuses a token without the scope."""

    concurrency = 1

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls_left = calls

    def __call__(self, kind: str, values: list[Any]) -> Array:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise PermissionDeniedError("the token lacks the scope embed")
        return super().__call__(kind, values)


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    rows = [
        {"id": 1, "text": "ab", "label": "x", "score": 1, "tags": ["p", "q"]},
        {"id": 2, "text": None, "label": "y", "score": 2},
        {"id": 3, "text": "c", "label": None, "score": 2.5, "tags": []},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_kept_columns_stay_beside_their_rows(tmp_path: Path, table: Path) -> None:
    """The bad row is left out of them too; types that differ between rows are unified."""
    out = tmp_path / "out.parquet"
    embed_files(Ramp(), [table], out, keep=["label", "score", "tags"], chunk_items=1)
    rows = parquet.read_table(out).to_pylist()
    assert [(row["id"], row["label"], row["score"], row["tags"]) for row in rows] == [
        ("1", "x", 1.0, ["p", "q"]),
        ("3", None, 2.5, []),
    ]


def test_kept_columns_are_json_beside_other_outputs(tmp_path: Path, table: Path) -> None:
    """They are in the file beside .npy, and in the metadata of .safetensors."""
    embed_files(Ramp(), [table], tmp_path / "out.npy", keep=["label"])
    embed_files(Ramp(), [table], tmp_path / "out.safetensors", keep=["label"])
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        kept = json.loads(file.metadata()["kept"])
    assert json.loads((tmp_path / "out.npy.json").read_text())["kept"] == kept == {"label": ["x", None]}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        pytest.param([datetime.datetime(2026, 1, 2, 3, 4, 5), None], pa.timestamp("us"), id="timestamps"),
        pytest.param([datetime.date(2026, 1, 2), datetime.date(1969, 1, 1)], pa.date32(), id="dates"),
        pytest.param([decimal.Decimal("1.25"), decimal.Decimal("100.5")], pa.decimal128(5, 2), id="decimals"),
        pytest.param([b"\x00\xff", b""], pa.binary(), id="bytes"),
        pytest.param([{"a": [1, 2]}, {"a": []}], pa.struct([("a", pa.list_(pa.int64()))]), id="nested"),
        pytest.param(["x", "x"], pa.dictionary(pa.int32(), pa.string()), id="dictionary"),
    ],
)
def test_kept_columns_of_parquet_keep_their_values(tmp_path: Path, values: list[Any], kind: Any) -> None:
    """Values that JSON has no type for are kept too."""
    source = pa.table({"text": ["a", "b"], "kept": pa.array(values, kind)})
    parquet.write_table(source, tmp_path / "t.parquet")
    embed_files(Ramp(), [tmp_path / "t.parquet"], tmp_path / "out.parquet", keep=["kept"], chunk_items=1)
    assert parquet.read_table(tmp_path / "out.parquet")["kept"].to_pylist() == values


def test_kept_values_of_several_types_are_text(tmp_path: Path) -> None:
    """No Arrow type holds a number and a list: they become JSON."""
    (tmp_path / "t.jsonl").write_text('{"text": "a", "kept": 1}\n{"text": "b", "kept": [2]}\n{"text": "c"}\n')
    embed_files(Ramp(), [tmp_path / "t.jsonl"], tmp_path / "out.parquet", keep=["kept"])
    assert parquet.read_table(tmp_path / "out.parquet")["kept"].to_pylist() == ["1", "[2]", None]


@pytest.mark.parametrize(
    ("name", "content", "keep", "message"),
    [
        pytest.param("t.csv", "id,text\n1,a\n", ["labl"], "no column 'labl': it has 'id', 'text'", id="missing in CSV"),
        pytest.param("t.jsonl", '{"text": "a"}\n', ["labl"], "no column 'labl': it has 'text'", id="missing in JSON"),
        pytest.param("t.txt", "a\n", ["label"], "has no columns to keep", id="no table"),
        pytest.param("t.csv", "id,text\n1,a\n", ["id"], "the output's own column has that name", id="the id"),
        pytest.param("t.csv", "id,text,n\n1,a,2\n", ["n", "n"], "kept twice", id="twice"),
        pytest.param("t.csv", "text,n,n\na,1,2\n", ["n"], "has 2 columns 'n': rename", id="two of one name"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(
    tmp_path: Path, name: str, content: str, keep: list[str], message: str
) -> None:
    """The error comes before anything is embedded."""
    (tmp_path / name).write_text(content)
    embedder = Ramp()
    with pytest.raises(InvalidInputError, match=message):
        embed_files(embedder, [tmp_path / name], tmp_path / "out.npy", keep=keep)
    assert embedder.values == []


def test_features_are_cut_then_scaled_then_converted(tmp_path: Path, table: Path) -> None:
    """The order of the steps is that of a server."""
    out = tmp_path / "out.npy"
    embed_files(Ramp(), [table], out, dimensions=2, normalize=True, dtype="float16")
    features = np.load(out)
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, [[0.6, 0.8]] * 2, atol=1e-3)


def test_float16_is_stored_as_such_in_parquet(tmp_path: Path, table: Path) -> None:
    """Half of the bytes on disk."""
    embed_files(Ramp(), [table], tmp_path / "out.parquet", dtype="float16")
    assert parquet.read_schema(tmp_path / "out.parquet").field("embedding").type == pa.list_(pa.float16(), 3)


def test_a_prompt_is_put_before_each_text(tmp_path: Path, table: Path) -> None:
    """The embedder receives texts that start with the prompt."""
    embedder = Ramp()
    embed_files(embedder, [table], tmp_path / "out.npy", prompt="query: ")
    assert embedder.values == ["query: ab", "query: c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"dimensions": 4}, "expected at most 3, the features of test/ramp", id="too many"),
        pytest.param({"dimensions": 0}, "expected at least 1", id="none"),
        pytest.param({"dtype": "int8"}, "'int8', expected float32 or float16", id="dtype"),
    ],
)
def test_options_that_no_features_can_have_are_refused(
    tmp_path: Path, table: Path, options: dict[str, Any], message: str
) -> None:
    """The error comes before anything is embedded."""
    with pytest.raises(InvalidInputError, match=message):
        embed_files(Ramp(), [table], tmp_path / "out.npy", **options)


def test_a_prompt_is_for_texts_only(tmp_path: Path) -> None:
    """With pictures it would do nothing."""
    (tmp_path / "a.png").touch()
    with pytest.raises(InvalidInputError, match="is for texts, but .*a.png holds images"):
        embed_files(Ramp(), [tmp_path / "a.png"], tmp_path / "out.npy", prompt="query: ")


@pytest.mark.parametrize(
    "options",
    [{"normalize": True}, {"dimensions": 2}, {"dtype": "float16"}, {"prompt": "q: "}, {"keep": ["label"]}],
    ids=lambda options: next(iter(options)),
)
def test_a_run_resumes_only_with_the_same_options(tmp_path: Path, table: Path, options: dict[str, Any]) -> None:
    """One output has one kind of features."""
    with pytest.raises(PermissionDeniedError, match="lacks the scope"):
        embed_files(RefusedAfter(1), [table], tmp_path / "out.npy", chunk_items=1)
    with pytest.raises(InvalidInputError, match=f"begun with another {next(iter(options))}"):
        embed_files(Ramp(), [table], tmp_path / "out.npy", **options)


@pytest.mark.parametrize(("first", "second"), [(PLAIN, NAMED), (NAMED, PLAIN)], ids=["added", "left out"])
def test_an_option_of_one_run_only_is_refused(tmp_path: Path, first: dict[str, str], second: dict[str, str]) -> None:
    """One output would hold features of two prompts."""
    with closing(ChunkStore(output_at(tmp_path / "out.npy"))) as store:
        store.begin(first)
        with pytest.raises(InvalidInputError, match="was begun with another prompt_name: use the same to resume"):
            store.begin(second)


@pytest.mark.parametrize(("calls", "left"), [(0, []), (1, ["00000000.npz", "recipe.json"])], ids=["none", "some"])
def test_a_failed_run_leaves_a_folder_only_for_finished_chunks(tmp_path: Path, calls: int, left: list[str]) -> None:
    """A folder without chunks would be taken for work that can be resumed."""
    (tmp_path / "t.txt").write_text("a\nb\n")
    with pytest.raises(PermissionDeniedError, match="lacks the scope"):
        embed_files(RefusedAfter(calls), [tmp_path / "t.txt"], tmp_path / "out.npy", chunk_items=1)
    assert sorted(path.name for path in (tmp_path / "out.npy.parts").glob("*")) == left
    assert (tmp_path / "out.npy.parts").exists() == bool(left)
