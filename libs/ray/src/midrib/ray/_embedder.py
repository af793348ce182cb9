"""`Embedder`: the callable that Ray constructs in each actor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types

from midrib.ray._columns import EMBEDDING, ERROR, ColumnOptions
from midrib.ray._values import Kind, column_items
from midrib.remote._command.names import import_modules, parse_backbone, server_module
from midrib.remote._files.embedders import OutputOptions, RemoteEmbedder, with_prompt
from midrib.remote._files.embedders import ValueEmbedder as OpenBackbone
from midrib.remote._files.items import SourceItem
from midrib.remote._files.prompts import ChosenPrompt
from midrib.remote._files.run import ChunkSize, embed_in_order, embed_in_this_thread
from midrib.wire import Array, RevisionMismatchError


class Embedder:
    """Embeds tables, as a class for `Dataset.map_batches(Embedder, batch_format="pyarrow", ...)`.

    backbone: grpc://host:port/namespace/name, or 'namespace/name?argument=value' to load it into the actor.
    column: the texts, encoded images or sounds (bytes, or {bytes, path}), arrays or lists of numbers.
    keep: the columns to copy to the output; None copies all except `column`.
    kind: "images" or "audio" if texts are paths of files; "images" if arrays are pixels, uint8 [height, width, 3];
    None to tell the kind by the value.
    revision: the expected revision.  imports: modules that register backbones of the actor.
    prompt, prompt_name, dimensions, normalize, dtype: as for `midrib.remote.embed_files`.  kwargs: the Client's.
    Raises InvalidInputError for unusable options, RevisionMismatchError if the backbone has another revision.
    """

    def __init__(
        self,
        backbone: str,
        column: str = "text",
        *,
        keep: Sequence[str] | None = None,
        kind: Kind | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        normalize: bool = False,
        dtype: str = "float32",
        revision: str | None = None,
        imports: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self._columns = ColumnOptions(column, None if keep is None else tuple(keep), kind)
        self._options = OutputOptions(dimensions, normalize, dtype)
        self._prompt = ChosenPrompt(prompt, prompt_name)
        self._backbone = with_prompt(open_backbone(backbone, imports, kwargs), prompt, prompt_name)
        if revision not in (None, self._backbone.revision):
            raise RevisionMismatchError(
                f"{self._backbone.name} has revision {self._backbone.revision}, expected {revision}: "
                "serve that revision, or embed the whole dataset with the new one"
            )
        self._width = self._options.width(self._backbone)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a row for each row of the table: the copied columns, "embedding" and "error".

        embedding: a list of fixed size, null in a row that could not be embedded.  error: the reason, null otherwise.
        The schema's metadata holds the backbone, its revision and the options, as in the files of `midrib embed`.
        Raises InvalidInputError if the table lacks a column, and the errors of a server that does not answer.
        """
        copied = self._columns.copied(table.column_names)
        features = np.zeros((table.num_rows, self._width), self._options.dtype)
        errors: list[str | None] = [None] * table.num_rows
        items = self._items(table.column(self._columns.value))
        chunks = embed_in_order if isinstance(self._backbone, RemoteEmbedder) else embed_in_this_thread
        for chunk in chunks(self._backbone, items, ChunkSize(max(1, table.num_rows)), self._options):
            features[[int(row) for row in chunk.ids]] = chunk.features
            for row, error in chunk.bad:
                errors[int(row)] = error
        output = table.select(copied).append_column(EMBEDDING, _lists(features, errors))
        output = output.append_column(ERROR, pa.array(errors, pa.string()))
        metadata = table.schema.metadata or {}
        kept = {key: value for key, value in metadata.items() if not key.startswith(b"midrib.")}
        return output.replace_schema_metadata({**kept, **self.metadata()})

    def _items(self, column: pa.ChunkedArray) -> Iterator[SourceItem]:
        for item in column_items(column, self._columns.kind):
            if item.error is None:
                self._prompt.check(item.kind, f"column {self._columns.value!r}")
            yield item

    def metadata(self) -> dict[str, str]:
        """Return the backbone, its revision and the options, under the names that the files of `midrib embed` use."""
        return {
            "midrib.backbone": self._backbone.name,
            "midrib.revision": self._backbone.revision,
            "midrib.column": self._columns.value,
            **{f"midrib.{name}": text for name, text in self._prompt.recipe().items()},
            "midrib.dimensions": str(self._options.dimensions),
            "midrib.normalize": str(self._options.normalize),
            "midrib.dtype": self._options.dtype,
        }


def open_backbone(backbone: str, imports: Sequence[str], client_options: dict[str, Any]) -> OpenBackbone:
    """Connect to a served backbone, or load a registered one into this process.

    Raises ImportError for a registered one if midrib-server is not installed, TypeError for an unknown option.
    """
    check_client_options(backbone, client_options)
    if "://" in backbone:
        return RemoteEmbedder(backbone, **client_options)
    import_modules(imports)
    parsed = parse_backbone(backbone)
    module = server_module("_command.embed", f"backbone {backbone} in a Ray actor")
    embedder: OpenBackbone = module.LocalEmbedder(parsed["name"], parsed["arguments"])
    return embedder


def check_client_options(backbone: str, client_options: Mapping[str, Any]) -> None:
    """Raise TypeError if a backbone without a URL has options of the Client."""
    if client_options and "://" not in backbone:
        raise TypeError(f"got {', '.join(sorted(client_options))} for {backbone}: only a grpc:// URL has such options")


def _lists(features: Array, errors: Sequence[str | None]) -> pa.Array:
    """Return rows [rows, width] as lists of fixed size, null for the rows that have an error."""
    bad = pa.array([error is not None for error in errors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1], mask=bad)
