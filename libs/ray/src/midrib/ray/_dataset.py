"""`embed`: a dataset of embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from midrib.ray._columns import ColumnOptions
from midrib.ray._embedder import Embedder
from midrib.remote._files.embedders import RemoteEmbedder

if TYPE_CHECKING:
    from ray.data import Dataset


def embed(
    dataset: Dataset,
    backbone: str,
    column: str = "text",
    *,
    batch_size: int = 256,
    actors: int | tuple[int, int] = 1,
    resources: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Return a lazy dataset with a row for each row: the copied columns, "embedding" and "error".

    dataset: of any source of Ray.  backbone, column, options: see `Embedder`.
    batch_size: the most rows that an actor embeds at once.
    actors: their number, or the least and the most.  resources: of an actor, such as {"num_cpus": 2, "num_gpus": 0.5}.
    A row that cannot be embedded has a null embedding and the reason in "error"; it does not end the job.
    The schema's metadata holds the backbone and its revision. A served backbone is pinned to its present revision.
    Raises InvalidInputError for a column that does not exist, BackboneNotFoundError for a URL without such a backbone.
    """
    from ray.data import ActorPoolStrategy

    _check_column(dataset, column, options)
    if "://" in backbone and options.get("revision") is None:
        options = {**options, "revision": _served_revision(backbone, options)}
    least, most = (actors, actors) if isinstance(actors, int) else actors
    return dataset.map_batches(
        Embedder,
        fn_constructor_args=(backbone, column),
        fn_constructor_kwargs=options,
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        udf_modifying_row_count=False,
        **(resources or {}),
    )


def _check_column(dataset: Dataset, column: str, options: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if the dataset is known to lack a column that is needed."""
    names = dataset.columns(fetch_if_missing=False)
    if names is not None:
        ColumnOptions(column, options.get("keep"), options.get("kind")).copied(names)


def _served_revision(url: str, options: Mapping[str, Any]) -> str:
    """Return the revision that a server answers with now."""
    embedder_options = inspect.signature(Embedder).parameters
    return RemoteEmbedder(url, **{key: options[key] for key in options.keys() - embedder_options.keys()}).revision
