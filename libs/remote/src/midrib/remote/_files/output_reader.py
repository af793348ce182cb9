"""Read an output of `embed_files` again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from midrib.remote._files.formats.arrow_rows import require_pyarrow
from midrib.wire import Array, InvalidInputError


@dataclass(frozen=True)
class EmbeddedRows:
    """The content of an output.

    ids: the rows' ids.  features: [rows, num_features].  kept: the values of the kept columns, by column.
    backbone, revision: those that made the features.
    """

    ids: list[str]
    features: Array
    kept: Mapping[str, list[Any]]
    backbone: str
    revision: str


@dataclass(frozen=True)
class Match:
    """A row that is near to a query.

    cosine: that of its features and the query's.  kept: its values of the kept columns.
    """

    id: str
    cosine: float
    kept: dict[str, Any]


def read_output(path: Path) -> EmbeddedRows:
    """Return the rows of an output. Raises InvalidInputError for a file that `embed_files` did not write."""
    if path.suffix not in _READERS:
        raise InvalidInputError(
            f"{path} is of an unknown kind: give an output of `midrib embed`, {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise InvalidInputError(f"no file at {path}: check the path")
    try:
        return _READERS[path.suffix](path)
    except InvalidInputError:
        raise
    except Exception as error:  # each format has errors of its library
        raise InvalidInputError(
            f"{path} cannot be read as an output of `midrib embed` ({type(error).__name__}: {error})"
        ) from error


def _read_parquet(path: Path) -> EmbeddedRows:
    require_pyarrow(str(path))
    from pyarrow import parquet  # type: ignore[import-untyped] # it has no types

    table = parquet.read_table(path)
    metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    embedding = table["embedding"].combine_chunks()
    features = embedding.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    kept = {name: table[name].to_pylist() for name in table.column_names if name not in ("id", "embedding")}
    return EmbeddedRows(
        table["id"].to_pylist(), features, kept, metadata["midrib.backbone"], metadata["midrib.revision"]
    )


def _read_npy(path: Path) -> EmbeddedRows:
    beside = json.loads(path.with_name(path.name + ".json").read_text())
    features = np.load(path, allow_pickle=False)
    return EmbeddedRows(beside["ids"], features, beside.get("kept", {}), beside["backbone"], beside["revision"])


def _read_safetensors(path: Path) -> EmbeddedRows:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata, features = file.metadata() or {}, file.get_tensor("embedding")
    kept = json.loads(metadata.get("kept", "{}"))
    return EmbeddedRows(json.loads(metadata["ids"]), features, kept, metadata["backbone"], metadata["revision"])


_READERS: Final[dict[str, Callable[[Path], EmbeddedRows]]] = {
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
}
