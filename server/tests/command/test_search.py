"""`midrib search`: the rows of embedded files that are nearest to a text or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from midrib.remote._command.search import nearest
from midrib.remote._files.output_reader import EmbeddedRows
from midrib.server.testing import RunningServer

BACKBONE = "text/embedding/wordllama-256"
NOTES = "id,text,place\nn1,The bakery opens at six,Ulm\nn2,The cat sleeps all day,Bern\nn3,Interest rates rise,Wien\n"


@pytest.fixture(params=[".parquet", ".npy", ".safetensors"])
def notes(tmp_path: Path, midrib: Any, request: pytest.FixtureRequest) -> Path:
    """Return embedded notes, in each format, with a kept column."""
    (tmp_path / "notes.csv").write_text(NOTES)
    out = tmp_path / f"notes{request.param}"
    midrib("embed", str(tmp_path / "notes.csv"), "--backbone", BACKBONE, "--out", str(out), "--keep", "place")
    return out


def test_the_nearest_row_comes_first(midrib: Any, notes: Path) -> None:
    """With its id, its kept values and the cosine; the backbone is the one that made the rows."""
    matches = json.loads(midrib("search", str(notes), "a sleeping kitten", "--top", "2", "--json").stdout)
    assert matches[0]["id"] == "n2"
    assert (len(matches), matches[0]["kept"]) == (2, {"place": "Bern"})
    assert matches[0]["cosine"] > matches[1]["cosine"]
    first = midrib("search", str(notes), "where can I buy bread, at a bakery").stdout.splitlines()[0]
    assert first.split()[1:] == ["n1", "Ulm"]


def test_a_picture_is_searched_by_a_picture(midrib: Any, media_server: RunningServer, tmp_path: Path) -> None:
    """Through a server; the path of an image file is the query."""
    (tmp_path / "in").mkdir()
    for name, colour in {"red": (250, 0, 0), "blue": (0, 0, 250)}.items():
        Image.new("RGB", (20, 20), colour).save(tmp_path / "in" / f"{name}.png")
    url, out = media_server.url("image/embedding/picture"), tmp_path / "out.parquet"
    midrib("embed", str(tmp_path / "in"), "--backbone", url, "--out", str(out))
    Image.new("RGB", (30, 10), (200, 20, 10)).save(tmp_path / "query.png")
    done = midrib("search", str(out), str(tmp_path / "query.png"), "--backbone", url, "--json")
    assert json.loads(done.stdout)[0]["id"].endswith("red.png")


def test_a_long_text_that_ends_like_a_file_is_a_text(midrib: Any, notes: Path) -> None:
    """No file system has names of more than 255 bytes."""
    done = midrib("search", str(notes), "a sleeping kitten " * 20 + "cat.jpg", "--top", "1", "--json")
    assert json.loads(done.stdout)[0]["id"] == "n2"


def test_rows_of_another_backbone_are_refused(midrib: Any, notes: Path) -> None:
    """Features of two functions cannot be compared."""
    done = midrib("search", str(notes), "a cat", "--backbone", "text/embedding/all-minilm-l6-v2")
    assert done.returncode == 1
    assert "was made by text/embedding/wordllama-256, revision" in done.stderr
    assert "name the same backbone by --backbone, or embed the files again" in done.stderr


@pytest.mark.parametrize("name", ["none.npy", "other.npy", "t.csv", "other.parquet"])
def test_a_file_that_is_not_an_output_is_refused_in_one_sentence(midrib: Any, tmp_path: Path, name: str) -> None:
    """The error comes before the backbone is loaded."""
    np.save(tmp_path / "other.npy", np.ones((2, 2)))
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    done = midrib("search", str(tmp_path / name), "a cat", "--backbone", BACKBONE)
    assert (done.returncode, "Traceback" in done.stderr, "embedding the query" in done.stderr) == (1, False, False)
    assert done.stderr.startswith("midrib: ")
    assert name in done.stderr


def test_shortened_rows_are_compared_with_the_first_features_of_the_query() -> None:
    """--dimensions keeps the first ones; their length does not matter, nor does a row of zeros."""
    features = np.array([[0, 3], [2, 0], [0, 0]], np.float16)
    rows = EmbeddedRows(["a", "b", "c"], features, {}, "test/embedding/x", "r1")
    matches = nearest(rows, np.array([5, 0, 9], np.float32), 3)
    assert [(match.id, match.cosine) for match in matches] == [("b", 1.0), ("a", 0.0), ("c", 0.0)]


def test_an_index_has_the_suffix_of_lancedb(midrib: Any, notes: Path) -> None:
    """The path of another file would be taken for a folder."""
    done = midrib("search", str(notes), "a cat", "--index", "notes.faiss")
    assert done.returncode == 1
    assert "the index is notes.faiss, expected a path that ends in .lance, such as notes.lance" in done.stderr
