"""`Embedder` on single tables: kinds of values, columns, bad rows and the schema. Needs no Ray."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
import soundfile
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.ray import Embedder
from midrib.registry import AudioInput, ImageInput, Registry, TensorInput
from midrib.remote import embed_files
from midrib.remote._files.run import ChunkSize
from midrib.server.testing import RunningServer, serving
from midrib.wire import InvalidInputError, RevisionMismatchError

MLP = "template/classification/mlp-128?num_features=2"
ROWS = pa.table({"id": ["a", "b", "c"], "x": [[1.0, 2.0], None, [1.0]], "label": pa.array([7, 8, 9], pa.int8())})


PIXELS = np.full((40, 40, 3), (200, 30, 90), np.uint8)
UINT8 = pa.list_(pa.list_(pa.list_(pa.uint8())))
REGISTRY = Registry("for tests")


class Mean(nn.Module):
    """The mean of each channel of a picture, or of a sound."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flatten(-2).mean(dim=-1) if rows.dim() == 4 else rows.mean(dim=1, keepdim=True)


@REGISTRY(name="picture", namespace="image/embedding", input=ImageInput(16))
def load_picture() -> tuple[nn.Module, int]:
    return Mean(), 3


@REGISTRY(name="loudness", namespace="audio/embedding", input=AudioInput(8000))
def load_loudness() -> tuple[nn.Module, int]:
    return Mean(), 1


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("image/embedding/picture", "audio/embedding/loudness", registry=REGISTRY) as running:
        yield running


def encoded(name: str) -> bytes:
    """Return a file of one colour, or of one sound."""
    buffer = io.BytesIO()
    if name.endswith(".png"):
        Image.fromarray(PIXELS).save(buffer, "PNG")
    else:
        soundfile.write(buffer, np.linspace(0, 0.5, 4000), 8000, format="WAV")
    return buffer.getvalue()


@pytest.fixture()
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both files, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("shade.png", "sound.wav"):
        (tmp_path / name).write_bytes(encoded(name))
    return tmp_path


def test_a_row_that_cannot_be_embedded_has_a_reason_and_no_embedding() -> None:
    """It does not end the job, and the other rows of its batch are embedded."""
    rows = Embedder(MLP, "x")(ROWS)
    assert [value is None for value in rows.column("embedding").to_pylist()] == [False, True, True]
    assert rows.column("error").to_pylist() == [
        None,
        "the row has no value in this column",
        "the array has shape [1], backbone 'template/classification/mlp-128' takes [2]",
    ]


def test_columns_are_copied_with_their_types() -> None:
    """All except the embedded one, or those that `keep` names."""
    assert Embedder(MLP, "x")(ROWS).schema.names == ["id", "label", "embedding", "error"]
    kept = Embedder(MLP, "x", keep=["label"])(ROWS)
    assert kept.column("label").to_pylist() == [7, 8, 9]
    assert (kept.schema.names, kept.schema.field("label").type) == (["label", "embedding", "error"], pa.int8())


def test_the_schema_names_the_revision_and_keeps_what_it_held() -> None:
    """Its metadata is that of the input, with the backbone, the revision and the options."""
    table = ROWS.replace_schema_metadata({"origin": "survey"})
    metadata = Embedder(MLP, "x", dimensions=3, dtype="float16")(table).schema.metadata
    assert (metadata[b"origin"], metadata[b"midrib.dimensions"]) == (b"survey", b"3")
    assert metadata[b"midrib.backbone"] == b"template/classification/mlp-128"
    assert len(metadata[b"midrib.revision"]) == 64


def test_the_metadata_of_an_earlier_embedding_is_replaced() -> None:
    """A table that `midrib embed` wrote names its backbone, which is another one here."""
    earlier = {"midrib.backbone": "text/embedding/other", "midrib.prompt_name": "query", "origin": "survey"}
    embedded = Embedder(MLP, "x")(ROWS.replace_schema_metadata(earlier))
    expected = Embedder(MLP, "x")(ROWS.replace_schema_metadata({"origin": "survey"}))
    ignored = {b"midrib.revision": b""}  # the weights of each Embedder are random
    assert {**embedded.schema.metadata, **ignored} == {**expected.schema.metadata, **ignored}


def test_a_batch_without_rows_has_the_schema_of_the_others() -> None:
    """Ray joins the blocks of a dataset only if their schemas agree."""
    embedder = Embedder(MLP, "x")
    assert embedder(ROWS.slice(0, 0)).schema.equals(embedder(ROWS).schema, check_metadata=True)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param(encoded("shade.png"), None, id="encoded"),
        pytest.param({"bytes": encoded("shade.png"), "path": None}, None, id="Hugging Face"),
        pytest.param("shade.png", "images", id="path"),
        pytest.param(PIXELS.tolist(), "images", id="pixels"),
    ],
)
def test_every_form_of_a_picture_gives_the_same_row(server: RunningServer, value: Any, kind: Any, files: Path) -> None:
    """Bytes, a mapping of bytes and path, a path or pixels: the row of `midrib embed` on that file."""
    url = server.url("image/embedding/picture")
    embed_files(url, [files / "shade.png"], files / "out.npy")
    table = pa.table({"image": pa.array([value], UINT8 if isinstance(value, list) else None)})
    row = Embedder(url, "image", kind=kind)(table)
    assert row.column("error").to_pylist() == [None]
    np.testing.assert_array_equal(row.column("embedding").to_pylist(), np.load(files / "out.npy"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [pytest.param(encoded("sound.wav"), None, id="encoded"), pytest.param("sound.wav", "audio", id="path")],
)
def test_every_form_of_a_sound_gives_the_same_row(server: RunningServer, value: Any, kind: Any, files: Path) -> None:
    """Bytes or a path: the row of `midrib embed` on that file."""
    url = server.url("audio/embedding/loudness")
    embed_files(url, [files / "sound.wav"], files / "out.npy")
    row = Embedder(url, "sound", kind=kind)(pa.table({"sound": [value]}))
    assert row.column("error").to_pylist() == [None]
    np.testing.assert_array_equal(row.column("embedding").to_pylist(), np.load(files / "out.npy"))


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        pytest.param([b"no picture"], "images", "not an image of a known format", id="damaged"),
        pytest.param(["missing.png"], "images", "missing.png", id="missing file"),
        pytest.param(["a text"], "tensor", "holds texts, expected tensor", id="another kind"),
        pytest.param([[1.0, 2.0]], "audio", "is an array, expected audio: pass encoded files or paths", id="samples"),
        pytest.param([[1.0, 2.0]], "images", "is float32 \\[2\\], expected uint8", id="no pixels"),
        pytest.param([[[1.0], [1.0, 2.0]]], None, "the value is a list, expected a text", id="ragged"),
        pytest.param([[1.0, None]], None, "holds nulls or objects, expected numbers only", id="nulls in a list"),
    ],
)
def test_a_bad_value_has_its_reason(server: RunningServer, values: list[Any], kind: Any, words: str) -> None:
    """The reason shows the received and the expected value."""
    row = Embedder(server.url("image/embedding/picture"), "x", kind=kind)(pa.table({"x": values}))
    [error] = row.column("error").to_pylist()
    assert re.search(words, error)


def test_another_revision_is_refused() -> None:
    """The rows of one dataset come from one function."""
    with pytest.raises(RevisionMismatchError, match="has revision .*, expected r2"):
        Embedder(MLP, "x", revision="r2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"column": "y"}, "no column 'y': it has id, x, label", id="column"),
        pytest.param({"column": "x", "keep": ["age"]}, "no column 'age'", id="column to copy"),
        pytest.param({"column": "x", "kind": "video"}, "kind is 'video', expected None or one of", id="kind"),
        pytest.param({"column": "x", "prompt": "query: "}, "is for texts, but column 'x' holds tensor", id="prompt"),
        pytest.param({"column": "x", "dtype": "int8"}, "dtype is 'int8', expected float32", id="dtype"),
    ],
)
def test_unusable_options_end_the_job(options: dict[str, Any], words: str) -> None:
    """They would make every row bad."""
    with pytest.raises(InvalidInputError, match=words):
        Embedder(MLP, **options)(ROWS)


def test_a_column_named_like_the_output_is_refused() -> None:
    """It would be overwritten."""
    with pytest.raises(InvalidInputError, match="cannot copy column 'error': .* rename it"):
        Embedder(MLP, "x")(ROWS.rename_columns(["id", "x", "error"]))


class RecordsItsThread(nn.Module):
    """Returns its rows. threads: those that computed.  batches: the numbers of rows."""

    threads: ClassVar[list[threading.Thread]] = []
    batches: ClassVar[list[int]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.batches.append(len(rows))
        self.threads.append(threading.current_thread())
        return rows


@BACKBONES(name="threads", namespace="test/embedding", input=TensorInput((2,)), num_features=2)
def load_threads() -> tuple[nn.Module, int]:
    return RecordsItsThread(), 2


def test_a_backbone_of_the_actor_computes_in_the_actors_thread() -> None:
    """A new thread for each batch would not find the memory of the last pass, and have the kernel clear other pages."""
    embedder = Embedder("test/embedding/threads", "x")
    RecordsItsThread.threads.clear()
    embedder(ROWS.slice(0, 1))
    assert set(RecordsItsThread.threads) == {threading.current_thread()}


def test_a_fast_backbone_of_the_actor_computes_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a pass are doubled while it takes less than two seconds, up to all rows of the table."""
    adapt = ChunkSize.adapt
    monkeypatch.setattr(ChunkSize, "adapt", lambda size, _seconds: adapt(size, 0.0))
    embedder = Embedder("test/embedding/threads", "x")
    RecordsItsThread.batches.clear()
    embedder(pa.table({"x": [[0.0, 0.0]] * 448}))
    assert RecordsItsThread.batches == [64, 128, 256]
