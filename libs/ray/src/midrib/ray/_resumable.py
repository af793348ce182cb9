"""`write_embeddings`: a dataset's embeddings as Parquet files, by a job that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped] # it has no types

from midrib.ray._columns import EMBEDDING, ERROR, ColumnOptions
from midrib.ray._dataset import Pool, check_column, pinned
from midrib.ray._digests import row_digests
from midrib.ray._embedder import Embedder
from midrib.ray._parts import Finished, PartFolder
from midrib.wire import InvalidInputError

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True)
class Written:
    """The state of a job, in rows.

    done: rows in files, including bad rows and those of earlier jobs.  bad: rows that could not be embedded.
    resumed: rows that earlier jobs finished.
    """

    done: int
    bad: int
    resumed: int

    def after(self, part: Mapping[str, Any]) -> Written:
        """Return the state after one more batch.  part: a row of PartWriter."""
        return Written(self.done + part["rows"] - part["skipped"], self.bad + part["bad"], self.resumed)


def write_embeddings(
    dataset: Dataset,
    backbone: str,
    folder: str,
    column: str = "text",
    *,
    id_column: str = "id",
    part_rows: int = 1024,
    actors: int | tuple[int, int] = 1,
    resources: Mapping[str, Any] | None = None,
    on_progress: Callable[[Written], object] | None = None,
    **options: Any,
) -> Written:
    """Embed a dataset into the Parquet files of a folder. The same job again resumes one that was ended.

    dataset: any of Ray's datasets, in any order.  backbone, column, options: see `Embedder`.
    folder: a path that every node sees, or a URL that pyarrow opens, such as s3://bucket/embeddings.
    id_column: the column that tells rows apart; two rows may not agree in all columns.
    part_rows: the most rows of a file; an actor holds one batch of them, and a kill loses at most the unfinished ones.
    actors, resources: see `embed`.  on_progress: called after each batch.
    The files hold the copied columns and "embedding"; their schema's metadata has the backbone and its revision. Rows
    that cannot be embedded are in files of the folder's `bad`, with the reason in "error".
    A resumed job holds 32 bytes in memory for each finished row, skips those rows, and embeds the others.
    Raises InvalidInputError if options or the folder are unusable, or if the dataset changed between jobs;
    RevisionMismatchError if the backbone changed.
    """
    import ray

    if options.get("keep") is not None:
        options = {**options, "keep": list(dict.fromkeys([id_column, *options["keep"]]))}
    check_column(dataset, column, options, id_column)
    options = pinned(backbone, options)
    parts = PartFolder(folder)
    with parts.exclusive():
        finished = parts.finished()
        arguments = (folder, ray.put(finished), id_column, backbone, column)  # one copy of the digests for each node
        pool = Pool(part_rows, actors, resources or {})
        results = pool.map(dataset, PartWriter, *arguments, udf_modifying_row_count=True, **options)
        return _collect(results, parts, finished, on_progress)


def _collect(
    results: Dataset, parts: PartFolder, finished: Finished, on_progress: Callable[[Written], object] | None
) -> Written:
    """Move each file to its place, and return the state at the end.

    Raises the errors of `Recipe.check`, and InvalidInputError if not exactly the finished rows were skipped.
    """
    state = Written(finished.rows, finished.bad, finished.rows)
    recipe, skipped = finished.recipe, 0
    for part in results.iter_rows():
        recipe.check(json.loads(part["metadata"]))
        parts.commit(part["file"])
        parts.commit(part["bad_file"], "bad")
        state = state.after(part)
        skipped += part["skipped"]
        if on_progress is not None:
            on_progress(state)
    if skipped != finished.rows:
        raise InvalidInputError(
            f"{parts.location} holds {finished.rows} rows of earlier jobs, and the dataset has {skipped} of them: it "
            "changed, or rows of it are equal. Choose another folder, and give each row an id"
        )
    return state


class PartWriter:
    """Writes each table that it gets as an unfinished file, for `Dataset.map_batches`.

    location: that of the PartFolder.  finished: a reference to the Finished rows, which are skipped.
    id_column: a column that the dataset must have.  backbone, column, options: see `Embedder`.
    """

    def __init__(
        self, location: str, finished: Any, id_column: str, backbone: str, column: str, **options: Any
    ) -> None:
        import ray

        self._parts = PartFolder(location)
        self._finished: Finished = ray.get(finished)
        self._embedder = Embedder(backbone, column, **options)
        self._columns = ColumnOptions(column, options.get("keep"), options.get("kind"))
        self._id_column = id_column

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return one row: the numbers of rows, skipped rows and bad rows, the names of the files, and their metadata.

        Raises InvalidInputError if the table lacks a column.
        """
        copied = self._columns.copied(table.column_names, self._id_column)
        digests = row_digests(table, self._columns.value, copied)
        new = ~self._finished.includes(digests)
        embedded = self._embedder(table.filter(pa.array(new)))
        good = embedded.column(EMBEDDING).is_valid()
        good_rows = good.to_numpy(zero_copy_only=False)
        bad = embedded.filter(pa.array(~good_rows)).drop_columns([EMBEDDING])
        file = self._parts.write(embedded.filter(good).drop_columns([ERROR]), digests[new][good_rows])
        bad_file = self._parts.write(bad, digests[new][~good_rows])
        result = {
            "rows": table.num_rows,
            "skipped": table.num_rows - embedded.num_rows,
            "bad": bad.num_rows,
            "file": file,
            "bad_file": bad_file,
            "metadata": json.dumps(self._embedder.metadata()),
        }
        return pa.Table.from_pylist([result])
