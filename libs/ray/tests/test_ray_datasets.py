"""`midrib.ray.embed` on a real Ray: sources, sinks, revisions, and workers that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet

import midrib.ray
from midrib.remote import embed_files
from midrib.server.testing import RunningServer, serving
from midrib.wire import InvalidInputError

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")
col = pytest.importorskip("ray.data.expressions").col

MINILM = "text/embedding/all-minilm-l6-v2"
MLP = "template/classification/mlp-128?num_features=2"
TEXTS = [f"a text about number {number}" for number in range(40)]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MINILM) as running:
        yield running


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: str(row["id"]))


def test_rows_equal_those_of_midrib_embed(cluster: None, server: RunningServer, tmp_path: Path) -> None:
    """From Parquet to Parquet: the same ids, embeddings and revision, and the columns beside them."""
    url = server.url(MINILM)
    table = pa.table({"id": [f"t{row:02}" for row in range(40)], "text": TEXTS, "stars": list(range(40))})
    parquet.write_table(table, tmp_path / "texts.parquet")
    embed_files(url, [tmp_path / "texts.parquet"], tmp_path / "file.parquet", keep=["stars"])
    dataset = ray.data.read_parquet(str(tmp_path / "texts.parquet"))
    midrib.ray.embed(dataset, url, "text", batch_size=16).write_parquet(str(tmp_path / "folder"))
    expected = parquet.read_table(tmp_path / "file.parquet")
    actual = parquet.read_table(tmp_path / "folder").sort_by("id")
    assert actual.select(["id", "stars", "embedding"]).to_pydict() == expected.to_pydict()
    assert actual.schema.metadata[b"midrib.revision"] == expected.schema.metadata[b"midrib.revision"]
    assert actual.column("error").null_count == 40


def test_a_backbone_in_the_actor_gives_the_rows_of_a_served_one(cluster: None, server: RunningServer) -> None:
    """The name or the URL is the only difference."""
    dataset = ray.data.from_items([{"id": f"t{row:02}", "text": text} for row, text in enumerate(TEXTS)])
    served = rows_of(midrib.ray.embed(dataset, server.url(MINILM)))
    local = rows_of(midrib.ray.embed(dataset, MINILM))
    assert [row["id"] for row in served] == [row["id"] for row in local]
    np.testing.assert_allclose([row["embedding"] for row in served], [row["embedding"] for row in local], atol=1e-5)


def test_a_bad_row_is_kept_aside(cluster: None) -> None:
    """A filter on "error" gives the bad rows or the good ones."""
    dataset = ray.data.from_items([{"id": "good", "x": [1.0, 2.0]}, {"id": "short", "x": [1.0]}])
    embedded = midrib.ray.embed(dataset, MLP, "x").materialize()
    assert [row["id"] for row in embedded.filter(expr=col("error").is_not_null()).take_all()] == ["short"]
    assert [row["id"] for row in embedded.filter(expr=col("error").is_null()).take_all()] == ["good"]


def test_a_killed_worker_loses_and_doubles_no_row(cluster: None, tmp_path: Path) -> None:
    """Ray starts another actor, which embeds that batch again."""
    dataset = ray.data.from_numpy(np.repeat(np.arange(200, dtype=np.float32)[:, None], 2, axis=1))
    dataset = dataset.map_batches(lambda batch: {"id": batch["data"][:, 0].astype(int), "x": batch["data"]})
    backbone = f"test/embedding/dying?marker={tmp_path / 'killed'}"
    embedded = midrib.ray.embed(dataset, backbone, "x", batch_size=10, imports=["dying_backbone"])
    rows = sorted(embedded.take_all(), key=lambda row: int(row["id"]))
    assert (tmp_path / "killed").exists()
    assert [(row["id"], list(row["embedding"])) for row in rows] == [(row, [2 * row, 2 * row]) for row in range(200)]


def test_two_actors_share_a_table_that_ray_reads_as_one_block(cluster: None) -> None:
    """Also if they reserve all CPUs of the cluster, so that none remains for the tasks that divide the block."""
    dataset = ray.data.from_items([{"id": row, "x": [0.0]} for row in range(40)], override_num_blocks=1)
    embedded = midrib.ray.embed(
        dataset, "test/embedding/waiting", "x", batch_size=4, actors=2, imports=["waiting_backbone"]
    )
    rows = embedded.take_all()
    assert sorted(row["id"] for row in rows) == list(range(40))
    assert len({row["embedding"][0] for row in rows}) == 2  # process ids


def test_map_batches_takes_the_class(cluster: None, server: RunningServer) -> None:
    """For pipelines that set Ray's options themselves."""
    embedded = ray.data.from_items([{"id": 1, "text": "a"}]).map_batches(
        midrib.ray.Embedder,
        fn_constructor_args=(server.url(MINILM),),
        fn_constructor_kwargs={"dimensions": 8, "normalize": True},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    [row] = embedded.take_all()
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)


def test_an_unknown_column_ends_before_anything_runs(cluster: None) -> None:
    """The error names the columns that exist."""
    with pytest.raises(InvalidInputError, match="no column 'y': it has id, x"):
        midrib.ray.embed(ray.data.from_arrow(pa.table({"id": [1], "x": [[1.0]]})), MLP, "y")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"batch_size": 0}, InvalidInputError, "a batch has 0 rows, expected at least 1", id="rows"),
        pytest.param({"actors": 0}, InvalidInputError, "actors is 0, expected a number", id="actors"),
        pytest.param({"actors": (3, 1)}, InvalidInputError, r"actors is \(3, 1\), expected", id="bounds"),
        pytest.param({"normalise": True}, TypeError, "got normalise for template/", id="unknown"),
    ],
)
def test_wrong_options_end_before_anything_runs(
    cluster: None, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """In this process, not as an actor that dies."""
    with pytest.raises(error, match=words):
        midrib.ray.embed(ray.data.from_arrow(pa.table({"id": [1], "x": [[1.0]]})), MLP, "x", **options)
