"""Rows of an output of `embed_files` in a LanceDB table, which is searched on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from midrib.remote._files.output_reader import EmbeddedRows, Match, read_output
from midrib.wire import Array, InvalidInputError

_TABLE: Final = "rows"
_SUFFIX: Final = ".lance"


class LanceIndex:
    """A LanceDB table of the rows of one output; open it by `open_index`.

    backbone, revision: those that made the features.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        self.source = metadata.get("midrib.source", "")
        self.backbone, self.revision = metadata["midrib.backbone"], metadata["midrib.revision"]
        self._width = table.schema.field("vector").type.list_size

    def nearest(self, query: Array, top: int) -> list[Match]:
        """Return the rows with the largest cosines to the query's features, [num_features], the best first."""
        search = self._table.search(query[: self._width].astype(np.float32), vector_column_name="vector")
        rows = search.distance_type("cosine").limit(top).to_list()
        return [Match(row["id"], 1 - row["_distance"], json.loads(row["kept"])) for row in rows]


def open_index(path: Path, features: Path) -> LanceIndex:
    """Return the index of an output of `embed_files`; build it if it is absent, or if the output has changed since.

    path: a folder whose name ends in .lance.
    Raises InvalidInputError for another path, or for a file that `embed_files` did not write; ImportError if lancedb is
    not installed.
    """
    if path.suffix != _SUFFIX:
        raise InvalidInputError(f"the index is {path}, expected a path that ends in {_SUFFIX}, such as notes{_SUFFIX}")
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of each table that it creates
    try:
        import lancedb
    except ImportError as error:
        raise ImportError(f"an index needs lancedb ({error}): pip install 'midrib-remote[lance]'") from error
    if not features.is_file():
        raise InvalidInputError(f"no file at {features}: check the path")
    database = lancedb.connect(path)
    source = _source(features)
    try:
        index = LanceIndex(database.open_table(_TABLE))
        if index.source == source:
            return index
    except (KeyError, ValueError):  # the table is absent, or it is not ours
        pass
    return LanceIndex(_build(database, read_output(features), source))


def _source(features: Path) -> str:
    """Return a value that differs between the present content of an output and an earlier one."""
    status = features.stat()
    return f"{features.name} {status.st_size} {status.st_mtime_ns}"


def _build(database: Any, rows: EmbeddedRows, source: str) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped] # it has no types

    features = np.ascontiguousarray(rows.features, np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    # JSON takes columns of any name and type; LanceDB does not.
    kept = [
        json.dumps({name: values[row] for name, values in rows.kept.items()}, default=str)
        for row in range(len(features))
    ]
    columns = {"id": pa.array(rows.ids), "vector": vectors, "kept": pa.array(kept, pa.string())}
    metadata = {"midrib.backbone": rows.backbone, "midrib.revision": rows.revision, "midrib.source": source}
    return database.create_table(_TABLE, pa.table(columns).replace_schema_metadata(metadata), mode="overwrite")
