"""Embed folders and files into one file of features. A run that was killed resumes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from midrib.remote._files.chunks import Chunk, ChunkStore
from midrib.remote._files.embedders import OutputOptions, ValueEmbedder, embedder_from, with_prompt
from midrib.remote._files.formats.columns import InputColumns
from midrib.remote._files.items import SourceItem
from midrib.remote._files.prompts import ChosenPrompt
from midrib.remote._files.run import ChunkSize, digest_of, embed_in_order
from midrib.remote._files.sources import Sources
from midrib.remote._files.storage import Downloads, Output, output_at
from midrib.remote._files.writers import check_output
from midrib.wire import InvalidInputError


@dataclass(frozen=True)
class Progress:
    """The state of a run, in items.

    done: finished, bad ones and those of earlier runs included.  bad: could not be embedded.
    resumed: items finished by earlier runs.  total: the number of all inputs.
    """

    done: int
    bad: int
    resumed: int
    total: int

    def after(self, chunk: Chunk) -> Progress:
        """Return the state after one more chunk."""
        bad = len(chunk.bad)
        return replace(self, done=self.done + len(chunk.ids) + bad, bad=self.bad + bad)

    def check_complete(self) -> None:
        """Raise InvalidInputError if the inputs had more or fewer items than were counted."""
        if self.done != self.total:
            raise InvalidInputError(
                f"the inputs changed while they were read, from {self.total} to {self.done} items: run again"
            )


def embed_files(
    backbone: str | ValueEmbedder | Callable[[], ValueEmbedder],
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    column: str = "text",
    id_column: str = "id",
    keep: Iterable[str] = (),
    prompt: str | None = None,
    prompt_name: str | None = None,
    dimensions: int | None = None,
    normalize: bool = False,
    dtype: str = "float32",
    chunk_items: int = 256,
    on_progress: Callable[[Progress], object] | None = None,
    **kwargs: Any,
) -> Progress:
    """Embed files into one file, with ids and the revision.

    backbone: grpc://host:port/namespace/name, a ValueEmbedder, or a function that makes one (called once the inputs and
    the output have been checked).
    inputs: folders of images or sounds, image and sound files, .txt (one item per line), .jsonl, .csv, .tsv,
    .parquet or .arrow (by column), .npy; paths, or URLs that fsspec opens (s3://, gs://, hf://).
    out: .parquet, .npy (ids beside it) or .safetensors; a path or such a URL.
    column: a table's column of texts or encoded media.  id_column: its column of row names, if it has one.
    keep: the columns of a table that are copied to the output.
    prompt: put before each text, such as "query: ", in place of the backbone's default prompt; "" for none.
    prompt_name: one of the backbone's prompts instead, such as "query".
    dimensions: keep the first features only.  normalize: scale rows to unit length, after that.
    dtype: the type of the stored features, "float32" or "float16".
    chunk_items: the most items per chunk; smaller chunks are used while the backbone is slow.
    on_progress: called after each chunk.  kwargs: the Client's; priority is "bulk" and timeout 600 s by default.
    A run that was killed resumes where it stopped, with nothing lost or doubled: `<out>.parts` holds the finished part.
    Rows that cannot be read, and items that cannot be embedded, are listed in `<out>.bad.jsonl`.
    Raises InvalidInputError if inputs or options are unusable or changed between runs, if the inputs hold no items, if
    the output is one of them, if another run writes the same output, or if every item is bad; RevisionMismatchError if
    the backbone changed; UnavailableError if a URL cannot be read or written; OSError if the output cannot be written.
    """
    columns = InputColumns(column, id_column, tuple(keep))
    options = OutputOptions(dimensions, normalize, dtype)
    prompts = ChosenPrompt(prompt, prompt_name)
    output, inputs = output_at(out), list(inputs)
    _refuse_input(output, inputs)
    check_output(output)
    output.check_bucket()
    with Downloads() as downloads, closing(ChunkStore(output)) as store:
        sources = Sources(inputs, columns, downloads)
        total = _count(sources, prompts)
        embedder = with_prompt(embedder_from(backbone, kwargs), prompt, prompt_name)
        options.width(embedder)  # before any item is embedded
        store.begin({**_recipe(embedder, columns, options), **prompts.recipe()})
        items = sources.items()
        progress = _skip_finished(store, items, total)
        for chunk in embed_in_order(embedder, items, ChunkSize(chunk_items), options):
            store.add(chunk)
            progress = progress.after(chunk)
            if on_progress is not None:
                on_progress(progress)
        progress.check_complete()
        store.finish()
    return progress


def _refuse_input(output: Output, inputs: Iterable[str | Path]) -> None:
    """Raise InvalidInputError if the output would replace one of the inputs."""
    for location in inputs:
        if output.is_at(location):
            raise InvalidInputError(f"output {location} is one of the inputs: name another file")


def _count(sources: Sources, prompt: ChosenPrompt) -> int:
    """Return the number of items. Raises InvalidInputError for unusable inputs, or if there are none."""
    total = 0
    for item in sources.items():
        prompt.check(item.kind, item.id)
        total += 1
    if not total:
        raise InvalidInputError("the inputs hold no items: check the folders and files")
    return total


def _recipe(embedder: ValueEmbedder, columns: InputColumns, options: OutputOptions) -> dict[str, str]:
    """Return the options on which the output depends, under the names of `embed_files`' arguments."""
    return {
        "backbone": embedder.name,
        "revision": embedder.revision,
        "column": columns.value,
        "id_column": columns.id,
        "keep": json.dumps(columns.kept),
        "dimensions": str(options.dimensions),
        "normalize": str(options.normalize),
        "dtype": options.dtype,
    }


def _skip_finished(store: ChunkStore, items: Iterator[SourceItem], total: int) -> Progress:
    """Skip the items that earlier runs finished, and return the state after them.

    Raises InvalidInputError if they are not the items of those runs.
    """
    skipped = bad = 0
    for chunk in store.chunks():
        count = len(chunk.ids) + len(chunk.bad)
        if digest_of(list(itertools.islice(items, count))) != chunk.digest:
            raise InvalidInputError(
                f"the inputs changed since {store.folder} was begun: give the same ones, or delete that folder"
            )
        skipped += count
        bad += len(chunk.bad)
    return Progress(skipped, bad, skipped, total)
