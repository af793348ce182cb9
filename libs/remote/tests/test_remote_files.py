"""`embed_files`: one file of features, resumable, with the bad items listed apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet
from safetensors import safe_open

from midrib.remote import Progress, embed_files
from midrib.remote._files.formats.columns import InputColumns
from midrib.remote._files.items import SourceItem
from midrib.remote._files.sources import Sources
from midrib.remote._files.storage import Downloads
from midrib.wire import Array, InvalidInputError, RevisionMismatchError, UnavailableError


def read(*inputs: Path, column: str = "text") -> list[SourceItem]:
    with Downloads() as downloads:
        return list(Sources(inputs, InputColumns(column), downloads).items())


class Lengths:
    """Embeds a text as its length, twice."""

    name = "test/lengths"
    num_features = 2

    def __init__(self, revision: str = "r1", fail_after: int | None = None) -> None:
        self.revision = revision
        self.seen: list[str] = []
        self._fail_after = fail_after

    def __call__(self, kind: str, values: list[Any]) -> Array:
        if self._fail_after is not None and len(self.seen) >= self._fail_after:
            raise UnavailableError("the server is gone")
        if "bad" in values:
            raise InvalidInputError("no good text")
        self.seen.extend(map(str, values))
        return np.array([[len(str(value))] * 2 for value in values], np.float32)


@pytest.fixture()
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join("x" * length for length in range(40)) + "\n")
    return path


def test_parquet_holds_ids_features_and_revision(tmp_path: Path, texts: Path) -> None:
    """One row an item, in the inputs' order."""
    out = tmp_path / "out.parquet"
    assert embed_files(Lengths(), [texts], out, chunk_items=7) == Progress(done=40, bad=0, resumed=0, total=40)
    table = parquet.read_table(out)
    assert table.column("id").to_pylist() == [f"{texts.as_posix()}:{row}" for row in range(40)]
    assert table.column("embedding").to_pylist() == [[row, row] for row in range(40)]
    assert table.schema.metadata[b"midrib.revision"] == b"r1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "texts.txt"]


def test_npy_has_its_ids_beside_it(tmp_path: Path, texts: Path) -> None:
    """The array alone, and JSON with ids and revision."""
    embed_files(Lengths(), [texts], tmp_path / "out.npy")
    beside = json.loads((tmp_path / "out.npy.json").read_text())
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == list(range(40))
    assert (beside["revision"], len(beside["ids"])) == ("r1", 40)


def test_safetensors_carries_everything(tmp_path: Path, texts: Path) -> None:
    """Features as a tensor, the rest as metadata."""
    embed_files(Lengths(), [texts], tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        assert file.get_tensor("embedding").shape == (40, 2)
        assert file.metadata()["backbone"] == "test/lengths"


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, texts: Path) -> None:
    """Nothing is lost, and finished rows are not embedded again."""
    out = tmp_path / "out.npy"
    with pytest.raises(UnavailableError, match="gone"):
        embed_files(Lengths(fail_after=16), [texts], out, chunk_items=4)
    assert not out.exists()
    again = Lengths()
    progress = embed_files(again, [texts], out, chunk_items=4)
    assert np.load(out)[:, 0].tolist() == list(range(40))
    assert progress.resumed > 0
    assert len(again.seen) == 40 - progress.resumed


def test_bad_items_are_kept_aside(tmp_path: Path) -> None:
    """They end no run, and are listed with their errors."""
    path = tmp_path / "texts.txt"
    path.write_text("one\nbad\nthree\n")
    assert embed_files(Lengths(), [path], tmp_path / "out.npy") == Progress(done=3, bad=1, resumed=0, total=3)
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == [3, 5]
    (line,) = (tmp_path / "out.npy.bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": f"{path.as_posix()}:1", "error": "no good text"}


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        pytest.param("t.jsonl", b'{"text": "ab"}\n{"text": \n', "it is not JSON", id="half-a-line"),
        pytest.param("t.jsonl", b'{"text": "ab"}\n[1]\n', "a JSON list, expected an object", id="no-object"),
        pytest.param("t.jsonl", b'{"text": "ab"}\n{"other": 1}\n', "the row has no value", id="no-column"),
        pytest.param("t.jsonl", b'{"text": "ab"}\n{"text": null}\n', "the row has no value", id="null"),
        pytest.param("t.csv", b"id,text\n1,ab\n2\n", "the row has no value", id="short-row"),
        pytest.param("t.txt", b"ab\n\xff\xfe\n", "the text is not valid UTF-8", id="no-utf-8"),
    ],
)
def test_rows_that_cannot_be_read_are_kept_aside(tmp_path: Path, name: str, content: bytes, bad: str) -> None:
    """Unreadable rows are listed as bad, and the run goes on."""
    (tmp_path / name).write_bytes(content)
    assert embed_files(Lengths(), [tmp_path / name], tmp_path / "out.npy") == Progress(2, 1, 0, 2)
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == [2]
    assert bad in (tmp_path / "out.npy.bad.jsonl").read_text()


def test_a_column_of_bytes_holds_images(tmp_path: Path) -> None:
    """Encoded images in a column are embedded, as in data sets on disk."""
    pq = pa.table({"id": ["a"], "image": pa.array([b"PNG"], pa.binary()), "label": [1]})
    parquet.write_table(pq, tmp_path / "t.parquet")
    (item,) = read(tmp_path / "t.parquet", column="image")
    assert (item.id, item.kind, item.value) == ("a", "images", b"PNG")


def test_a_kill_while_the_chunks_are_removed_leaves_none(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is complete by then, and the next run finds no incomplete folder to resume from."""
    out = tmp_path / "out.npy"

    def killed(folder: Path, *, ignore_errors: bool = False) -> None:
        for chunk in sorted(folder.glob("*.npz"))[:1]:
            chunk.unlink()
            raise KeyboardInterrupt("in mid-removal")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt, match="in mid-removal"):
            embed_files(Lengths(), [texts], out, chunk_items=4)
    assert embed_files(Lengths(), [texts], out, chunk_items=4).resumed == 0
    assert np.load(out)[:, 0].tolist() == list(range(40))


def test_another_revision_does_not_go_on(tmp_path: Path, texts: Path) -> None:
    """Features of two functions are never put into one file."""
    with pytest.raises(UnavailableError, match="gone"):
        embed_files(Lengths("r1", fail_after=8), [texts], tmp_path / "out.npy", chunk_items=4)
    with pytest.raises(RevisionMismatchError, match="delete the folder to begin again"):
        embed_files(Lengths("r2"), [texts], tmp_path / "out.npy", chunk_items=4)


def test_changed_inputs_do_not_go_on(tmp_path: Path, texts: Path) -> None:
    """The beginning must be the same items."""
    with pytest.raises(UnavailableError, match="gone"):
        embed_files(Lengths(fail_after=8), [texts], tmp_path / "out.npy", chunk_items=4)
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text())
    with pytest.raises(InvalidInputError, match="the inputs changed"):
        embed_files(Lengths(), [other], tmp_path / "out.npy", chunk_items=4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", "id,text\na,first\nb,second\n", id="csv"),
        pytest.param("t.jsonl", '{"id": "a", "text": "first"}\n\n{"id": "b", "text": "second"}\n', id="jsonl"),
    ],
)
def test_tables_name_their_rows(tmp_path: Path, name: str, content: str) -> None:
    """The id column names the items, the text column holds them."""
    (tmp_path / name).write_text(content)
    assert [(item.id, item.value) for item in read(tmp_path / name)] == [("a", "first"), ("b", "second")]


def test_parquet_is_read_as_well_as_written(tmp_path: Path, texts: Path) -> None:
    """The texts come from the column that the caller names."""
    embed_files(Lengths(), [texts], tmp_path / "out.parquet")
    items = read(tmp_path / "out.parquet", column="id")
    assert items[3].value == f"{texts.as_posix()}:3"


def test_a_folder_gives_its_images_in_order(tmp_path: Path) -> None:
    """Of every depth, by path; other files are passed over."""
    for name in ("b/2.png", "a.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(item.id).name for item in read(tmp_path)] == ["a.JPG", "2.png"]


def test_arrays_give_their_rows(tmp_path: Path) -> None:
    """A .npy file is the backbone's own input, a row an item."""
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    assert [item.value.tolist() for item in read(tmp_path / "x.npy")] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.txt", "no file or folder"),
        ("x.doc", "of an unknown kind"),
        ("x.csv", "no column 'text': it has 'a', 'b'"),
    ],
)
def test_unusable_inputs_are_refused(tmp_path: Path, name: str, said: str) -> None:
    """The error lists the kinds of inputs that can be used."""
    (tmp_path / "x.doc").touch()
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInputError, match=said):
        read(tmp_path / name)


def test_an_unknown_kind_of_output_is_refused_at_once(tmp_path: Path, texts: Path) -> None:
    """The error comes before anything is embedded."""
    with pytest.raises(InvalidInputError, match=r"end it in \.parquet, \.npy, \.safetensors"):
        embed_files(Lengths(), [texts], tmp_path / "out.doc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"text": "changed\n" * 40}, "the inputs changed", id="values"),
        pytest.param({"column": "title"}, "begun with another column", id="column"),
    ],
)
def test_a_run_resumes_only_with_the_same_inputs_and_options(
    tmp_path: Path, texts: Path, change: dict[str, str], message: str
) -> None:
    """Otherwise one output would hold features of both."""
    out = tmp_path / "out.npy"
    with pytest.raises(UnavailableError, match="gone"):
        embed_files(Lengths(fail_after=16), [texts], out, chunk_items=4)
    texts.write_text(change.get("text", texts.read_text()))
    with pytest.raises(InvalidInputError, match=message):
        embed_files(Lengths(), [texts], out, chunk_items=4, column=change.get("column", "text"))


def test_a_damaged_chunk_is_one_sentence(tmp_path: Path, texts: Path) -> None:
    """A full disk or a crash of the machine leaves such files."""
    out = tmp_path / "out.npy"
    with pytest.raises(UnavailableError, match="gone"):
        embed_files(Lengths(fail_after=16), [texts], out, chunk_items=4)
    (tmp_path / "out.npy.parts" / "00000000.npz").write_bytes(b"")
    with pytest.raises(
        InvalidInputError, match=r"00000000\.npz is damaged .*: delete .*out\.npy\.parts to begin again"
    ):
        embed_files(Lengths(), [texts], out, chunk_items=4)


def test_two_runs_cannot_write_one_output(tmp_path: Path, texts: Path) -> None:
    """The second is refused while the first runs."""
    messages = []

    def start_another(_: Progress) -> None:
        with pytest.raises(InvalidInputError, match="another run writes") as caught:
            embed_files(Lengths(), [texts], tmp_path / "out.npy")
        messages.append(str(caught.value))

    embed_files(Lengths(), [texts], tmp_path / "out.npy", on_progress=start_another)
    assert messages[0].endswith("wait for it, or choose another output")


def test_a_run_whose_items_are_all_bad_fails(tmp_path: Path) -> None:
    """The error is that of the first item; the list of bad items is written, and no output."""
    path = tmp_path / "texts.txt"
    path.write_text("bad\nbad\n")
    with pytest.raises(InvalidInputError, match=r"all 2 items were refused.*texts\.txt:0: no good text"):
        embed_files(Lengths(), [path], tmp_path / "out.npy")
    assert [file.name for file in sorted(tmp_path.glob("out*"))] == ["out.npy.bad.jsonl"]


def test_inputs_are_checked_before_the_backbone_loads(tmp_path: Path) -> None:
    """Loading may take minutes."""

    def load() -> Lengths:
        raise AssertionError("loaded too early")

    with pytest.raises(InvalidInputError, match="no file or folder at"):
        embed_files(load, [tmp_path / "none.txt"], tmp_path / "out.npy")
