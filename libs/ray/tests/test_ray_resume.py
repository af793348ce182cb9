"""`midrib.ray.write_embeddings` on a real Ray: jobs that are killed, and jobs that may not resume."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet

import midrib.ray
from midrib.ray import Written
from midrib.remote import embed_files
from midrib.server.testing import RunningServer, serving
from midrib.wire import InvalidInputError, RevisionMismatchError

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")

MINILM = "text/embedding/all-minilm-l6-v2"
# Twice its rows. Its process is never killed, because the file exists.
TWICE = "test/embedding/dying?marker=/dev/null"
IDS = [f"t{row:02}" for row in range(40)]
POINTS = pa.table({"id": [0, 1, 2, 3], "x": [[1.0, 2.0], [1.0], None, [3.0, 4.0]], "label": [5, 6, 7, 8]})
CHANGED = POINTS.set_column(1, "x", [[[9.0, 9.0], [1.0], None, [3.0, 4.0]]])
OTHER = "template/classification/mlp-128?num_features=2"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(MINILM) as running:
        yield running


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    """A table of texts, one of which is missing."""
    texts = [f"a text about number {row}" for row in range(39)]
    path = tmp_path / "texts.parquet"
    parquet.write_table(pa.table({"id": IDS, "text": [*texts, None], "stars": list(range(40))}), path)
    return path


def write(table: pa.Table, folder: Path, **options: Any) -> Written:
    """Embed points with the backbone in the actor."""
    settings: dict[str, Any] = {
        "backbone": TWICE,
        "column": "x",
        "part_rows": 2,
        "imports": ["dying_backbone"],
        **options,
    }
    return midrib.ray.write_embeddings(ray.data.from_arrow(table), folder=str(folder), **settings)


def ids_in(folder: Path) -> list[Any]:
    return sorted(row for path in folder.glob("*.parquet") for row in parquet.read_table(path).column("id").to_pylist())


@pytest.mark.usefixtures("cluster")
def test_a_job_whose_driver_is_killed_resumes(server: RunningServer, table: Path, tmp_path: Path) -> None:
    """Each row is in one file once, and the files together are the output of `midrib embed`."""
    address, url, folder = ray.get_runtime_context().gcs_address, server.url(MINILM), tmp_path / "out"
    driver = [sys.executable, Path(__file__).with_name("killed_driver.py"), address, table, folder, url]
    assert subprocess.run(driver, timeout=300, check=False).returncode == -9
    first = ids_in(folder)
    assert len(first) == 16
    again = midrib.ray.write_embeddings(ray.data.read_parquet(str(table)), url, str(folder), "text", part_rows=8)
    assert again == Written(done=40, bad=1, resumed=16)
    embed_files(url, [table], tmp_path / "file.parquet", keep=["stars"])
    expected = parquet.read_table(tmp_path / "file.parquet")
    actual = parquet.read_table(folder, filters=None, ignore_prefixes=["bad", "_"]).sort_by("id")
    assert actual.select(["id", "stars", "embedding"]).to_pydict() == expected.to_pydict()
    assert actual.schema.metadata[b"midrib.revision"] == expected.schema.metadata[b"midrib.revision"]
    assert ids_in(folder / "bad") == ["t39"]


@pytest.mark.usefixtures("cluster")
def test_bad_rows_are_kept_aside_with_their_reason(tmp_path: Path) -> None:
    """They have no embedding, and a resumed job does not try them again."""
    assert write(POINTS, tmp_path) == Written(done=4, bad=2, resumed=0)
    bad = parquet.read_table(tmp_path / "bad").sort_by("id")
    assert bad.drop_columns("error").to_pydict() == {"id": [1, 2], "label": [6, 7]}
    assert bad.column("error").to_pylist()[1] == "the row has no value in this column"
    assert write(POINTS, tmp_path) == Written(done=4, bad=2, resumed=4)
    assert (ids_in(tmp_path), ids_in(tmp_path / "bad")) == ([0, 3], [1, 2])


@pytest.mark.usefixtures("cluster")
def test_rows_in_another_order_and_in_other_batches_are_found_again(tmp_path: Path) -> None:
    """Ray keeps no order, and another cluster divides a dataset differently."""
    write(POINTS.slice(0, 3), tmp_path)
    reversed_points = POINTS.take([3, 2, 1, 0])
    assert write(reversed_points, tmp_path, part_rows=3) == Written(done=4, bad=2, resumed=3)
    assert ids_in(tmp_path) == [0, 3]


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_doubles_no_row(tmp_path: Path) -> None:
    """Ray repeats the batches of an actor that died; their first files do not count."""
    numbers = np.arange(40, dtype=np.float32)
    table = pa.table({"id": numbers.astype(int), "x": [[number, number] for number in numbers]})
    backbone = f"test/embedding/dying?marker={tmp_path / 'killed'}"
    written = write(table, tmp_path / "out", backbone=backbone, part_rows=5)
    assert (tmp_path / "killed").exists()
    assert written == Written(done=40, bad=0, resumed=0)
    assert ids_in(tmp_path / "out") == list(range(40))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """The folder of a finished job over POINTS."""
    folder = tmp_path_factory.mktemp("finished")
    write(POINTS, folder)
    return folder


@pytest.mark.parametrize(
    ("table", "options", "error", "words"),
    [
        pytest.param(POINTS.slice(1), {}, InvalidInputError, "the dataset has 3 of them: it changed", id="row missing"),
        pytest.param(CHANGED, {}, InvalidInputError, "holds 4 rows of earlier jobs, and the .* has 3", id="value"),
        pytest.param(POINTS, {"dimensions": 1}, InvalidInputError, "another midrib.dimensions: use the", id="options"),
        pytest.param(
            POINTS, {"backbone": OTHER}, RevisionMismatchError, "/dying .*, got template/class", id="backbone"
        ),
        pytest.param(POINTS, {"id_column": "name"}, InvalidInputError, "no column 'name' to tell its rows", id="ids"),
    ],
)
def test_a_job_that_may_not_resume_says_why(
    table: pa.Table, options: dict[str, Any], error: type[Exception], words: str, finished: Path, tmp_path: Path
) -> None:
    """Its output would mix functions, or hold rows that the dataset does not have."""
    folder = shutil.copytree(finished, tmp_path / "copy")
    with pytest.raises(error, match=words):
        write(table, folder, **options)


@pytest.mark.usefixtures("cluster")
def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    """Rows without digests cannot be distinguished from new ones."""
    parquet.write_table(POINTS, tmp_path / "points.parquet")
    with pytest.raises(InvalidInputError, match="was not written by write_embeddings: choose an empty folder"):
        write(POINTS, tmp_path)
