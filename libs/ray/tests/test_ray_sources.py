"""Embeddings of every kind of source of Ray, in every kind of sink."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from PIL import Image
from pyarrow import csv, parquet

import midrib.ray
from midrib.remote import Client
from midrib.server.testing import RunningServer, serving

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")

MINILM, EFFICIENTNET = "text/embedding/all-minilm-l6-v2", "image/classification/efficientnet-lite0"
TEXTS = [f"a text about number {number}" for number in range(8)]
TABLE = pa.table({"id": [f"t{row}" for row in range(8)], "text": TEXTS, "stars": list(range(8))})
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MINILM, EFFICIENTNET) as running:
        yield running


def of_parquet(folder: Path) -> Any:
    parquet.write_table(TABLE, folder / "texts.parquet")
    return ray.data.read_parquet(str(folder))


def of_json(folder: Path) -> Any:
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TABLE.to_pylist()))
    return ray.data.read_json(str(folder), lines=True)


def of_csv(folder: Path) -> Any:
    csv.write_csv(TABLE, folder / "texts.csv")
    return ray.data.read_csv(str(folder))


def of_pandas(_: Path) -> Any:
    return ray.data.from_pandas(TABLE.to_pandas())


def of_hugging_face(_: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="needs `pip install datasets`")
    return ray.data.from_huggingface(datasets.Dataset(TABLE))


@pytest.mark.parametrize("source", [of_parquet, of_json, of_csv, of_pandas, of_hugging_face])
def test_texts_of_a_source(cluster: None, server: RunningServer, tmp_path: Path, source: Callable[[Path], Any]) -> None:
    """The rows of a call, with the columns beside them."""
    rows = midrib.ray.embed(source(tmp_path), server.url(MINILM)).sort("id").take_all()
    with Client(server.address) as client:
        expected = client.embed(MINILM, texts=TEXTS)
    assert [(row["id"], row["stars"], row["error"]) for row in rows] == [(f"t{n}", n, None) for n in range(8)]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)


def encoded(dataset_of: Callable[[str], Any], folder: Path) -> Any:
    for row, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{row}.png")
    return dataset_of(str(folder))


@pytest.mark.parametrize(
    ("read", "column"),
    [
        pytest.param(lambda path: ray.data.read_images(path, include_paths=True), "image", id="read_images"),
        pytest.param(lambda path: ray.data.read_binary_files(path, include_paths=True), "bytes", id="binary files"),
    ],
)
def test_images_of_a_source(
    cluster: None, server: RunningServer, tmp_path: Path, read: Callable[[str], Any], column: str
) -> None:
    """Pixels and encoded images have the same embeddings, beside the path of each file."""
    dataset = midrib.ray.embed(encoded(read, tmp_path), server.url(EFFICIENTNET), column, kind="images")
    rows = dataset.sort("path").take_all()
    with Client(server.address) as client:
        expected = client.embed(EFFICIENTNET, images=list(PIXELS))
    assert [(Path(row["path"]).name, row["error"]) for row in rows] == [(f"{row}.png", None) for row in range(3)]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-4)


def from_parquet(folder: Path) -> Any:
    return parquet.read_table(folder)


def from_lance(folder: Path) -> Any:
    import lance  # type: ignore[import-not-found] # not among our packages

    return lance.dataset(str(folder)).to_table()


HAS_LANCE = importlib.util.find_spec("lance") is not None


@pytest.mark.parametrize(
    ("write", "read"),
    [
        pytest.param("write_parquet", from_parquet, id="parquet"),
        pytest.param(
            "write_lance",
            from_lance,
            marks=pytest.mark.skipif(not HAS_LANCE, reason="needs `pip install 'pylance<5'`"),
            id="lance",
        ),
    ],
)
def test_a_sink_has_ids_columns_and_the_revision(
    cluster: None, server: RunningServer, tmp_path: Path, write: str, read: Callable[[Path], Any]
) -> None:
    """The revision is in the metadata of the schema."""
    dataset = midrib.ray.embed(ray.data.from_arrow(TABLE), server.url(MINILM))
    getattr(dataset, write)(str(tmp_path / "out"))
    table = read(tmp_path / "out").sort_by("id")
    with Client(server.address) as client:
        revision = client.describe(MINILM).revision
    assert table.select(["id", "stars"]) == TABLE.select(["id", "stars"])
    assert table.schema.metadata[b"midrib.revision"].decode() == revision


def test_embeddings_as_numpy_files(cluster: None, server: RunningServer, tmp_path: Path) -> None:
    """As docs/ray.md writes them: Ray pickles lists, and writes tensors as arrays."""
    embedded = midrib.ray.embed(ray.data.from_arrow(TABLE), server.url(MINILM))
    tensors = embedded.map_batches(lambda batch: {"embedding": np.stack(batch["embedding"])})
    tensors.write_numpy(str(tmp_path / "out"), column="embedding")
    rows = np.concatenate([np.load(path) for path in sorted((tmp_path / "out").iterdir())])
    with Client(server.address) as client:
        np.testing.assert_allclose(rows, client.embed(MINILM, texts=TEXTS), atol=1e-5)
