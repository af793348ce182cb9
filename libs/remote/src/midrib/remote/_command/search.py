"""`midrib search`: the rows of an output of `midrib embed` that are nearest to a text or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from midrib.remote._command.backbone import load_embedder
from midrib.remote._command.options import Access
from midrib.remote._files.embedders import with_prompt
from midrib.remote._files.items import SourceItem, file_item
from midrib.remote._files.output_reader import EmbeddedRows, Match, read_output
from midrib.remote._files.sources import MEDIA_SUFFIXES
from midrib.remote._files.storage import LocalFile
from midrib.wire import Array, RevisionMismatchError

if TYPE_CHECKING:
    from midrib.remote._files.embedders import ValueEmbedder
    from midrib.remote._files.lance_index import LanceIndex


@dataclass(frozen=True)
class Query:
    """The query of a search.

    text: a text, or the path of an image or a sound.  top: the number of rows to return.
    prompt: put before a text.  prompt_name: one of the backbone's prompts instead.  Both None: its default prompt.
    index: the path of a LanceDB index to build and search; None to read all features into memory.
    """

    text: str
    prompt: str | None
    prompt_name: str | None
    top: int
    index: str | None = None


def search(
    features: str, query: Query, backbone: str | None, access: Access, *, imports: Sequence[str] | None, as_json: bool
) -> None:
    """Print the nearest rows.

    backbone: a URL or a registered name; None for the one that made the features, in this process.
    Raises RevisionMismatchError if another backbone, or another revision of it, made the features.
    """
    rows = _rows(Path(features), query.index)
    backbone = backbone or rows.backbone
    typer.echo(f"embedding the query with {backbone} ...", err=True)
    embedder = load_embedder(backbone, access, imports)
    if embedder.revision != rows.revision:
        raise RevisionMismatchError(
            f"{features} was made by {rows.backbone}, revision {rows.revision[:12]}, but {embedder.name} has revision "
            f"{embedder.revision[:12]}: name the same backbone by --backbone, or embed the files again"
        )
    matches = nearest(rows, _embed(embedder, query), query.top)
    if as_json:
        typer.echo(json.dumps([asdict(match) for match in matches], indent=2, default=str))
        return
    for match in matches:
        values = "".join(f"  {value}" for value in match.kept.values())
        typer.echo(f"{match.cosine:7.4f}  {match.id}{values}")


def _rows(features: Path, index: str | None) -> EmbeddedRows | LanceIndex:
    if index is None:
        return read_output(features)
    from midrib.remote._files.lance_index import open_index  # needs lancedb, which few users have

    return open_index(Path(index), features)


def nearest(rows: EmbeddedRows | LanceIndex, query: Array, top: int) -> list[Match]:
    """Return the rows with the largest cosines to the query's features, [num_features], the best first.

    Rows that hold the first features only are compared with the first features of the query.
    """
    if not isinstance(rows, EmbeddedRows):
        return rows.nearest(query, top)
    stored = rows.features.astype(np.float32)
    direction = query[: stored.shape[1]]
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(direction)
    cosines = stored @ direction / np.maximum(norms, np.finfo(np.float32).tiny)
    return [
        Match(rows.ids[row], float(cosines[row]), {name: values[row] for name, values in rows.kept.items()})
        for row in np.argsort(-cosines, kind="stable")[:top]
    ]


def _embed(embedder: ValueEmbedder, query: Query) -> Array:
    path = Path(query.text)
    if path.suffix.lower() in MEDIA_SUFFIXES and os.path.isfile(path):  # noqa: PTH113 - is_file raises for long names
        item = file_item(LocalFile(path, path.as_posix()))
    else:
        item = SourceItem("query", "texts", query.text)
        embedder = with_prompt(embedder, query.prompt, query.prompt_name)
    features: Array = embedder(item.kind, [item.load()])[0]
    return features
