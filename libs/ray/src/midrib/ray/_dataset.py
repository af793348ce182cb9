"""`embed`: a dataset of embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from midrib.ray._columns import ColumnOptions
from midrib.ray._embedder import Embedder, check_client_options
from midrib.remote._files.embedders import RemoteEmbedder
from midrib.wire import InvalidInputError

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

    dataset: any of Ray's datasets.  backbone, column, options: see `Embedder`.
    batch_size: the most rows that an actor embeds at once.
    actors: their number, or the least and the most. For several, the dataset is divided into blocks of `batch_size`
    rows, and the order of the rows changes.  resources: those of an actor, such as {"num_cpus": 2, "num_gpus": 0.5}.
    A row that cannot be embedded has a null embedding and the reason in "error"; it does not end the job.
    The schema's metadata holds the backbone and its revision. A served backbone is pinned to its present revision.
    Raises InvalidInputError for a column that does not exist, BackboneNotFoundError for a URL without such a backbone.
    """
    check_column(dataset, column, options)
    pool = Pool(batch_size, actors, resources or {})
    return pool.map(dataset, Embedder, backbone, column, udf_modifying_row_count=False, **pinned(backbone, options))


@dataclass(frozen=True)
class Pool:
    """The actors of a job.

    batch_size: the most rows that an actor takes at once.  actors: their number, or the least and the most.
    resources: an actor reserves them; they are arguments of `Dataset.map_batches`.
    Raises InvalidInputError for fewer than one row or actor.
    """

    batch_size: int
    actors: int | tuple[int, int] = 1
    resources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidInputError(f"a batch has {self.batch_size} rows, expected at least 1")
        least, most = self._bounds()
        if not 1 <= least <= most:
            raise InvalidInputError(f"actors is {self.actors!r}, expected a number of at least 1, or (least, most)")

    def _bounds(self) -> tuple[int, int]:
        """Return the least and the largest number of actors."""
        return (self.actors, self.actors) if isinstance(self.actors, int) else self.actors

    def map(
        self, dataset: Dataset, actor: type[Any], *arguments: Any, udf_modifying_row_count: bool, **options: Any
    ) -> Dataset:
        """Return the lazy dataset of an actor's results.

        actor: a class whose instances take and return tables.  arguments, options: passed to its constructor.
        udf_modifying_row_count: whether it returns more or fewer rows than it takes.
        """
        from ray.data import ActorPoolStrategy

        least, most = self._bounds()
        blocks = dataset if most == 1 else _divided(dataset, self.batch_size)
        return blocks.map_batches(
            actor,
            fn_constructor_args=arguments,
            fn_constructor_kwargs=options,
            batch_format="pyarrow",
            batch_size=self.batch_size,
            compute=ActorPoolStrategy(min_size=least, max_size=most),
            udf_modifying_row_count=udf_modifying_row_count,
            **self.resources,
        )


def _divided(dataset: Dataset, rows: int) -> Dataset:
    """Return the dataset in blocks of at most `rows` rows: an actor takes whole blocks.

    Ray reads a Parquet file of less than 128 MiB as one block, and all other actors would stay idle.
    """
    divided = dataset.repartition(target_num_rows_per_block=rows)
    # Each task that divides a block would reserve a CPU. The job would never start if the actors reserve all of them.
    try:
        divided._logical_plan.dag.ray_remote_args["num_cpus"] = 0  # noqa: SLF001 - Ray has no public option for it
    except (AttributeError, TypeError):  # another version of Ray: a job that starts is better than one that is divided
        return dataset
    return divided


def check_column(dataset: Dataset, column: str, options: Mapping[str, Any], id_column: str | None = None) -> None:
    """Raise InvalidInputError if the dataset is known to lack a column that is needed."""
    names = dataset.columns(fetch_if_missing=False)
    if names is not None:
        ColumnOptions(column, options.get("keep"), options.get("kind")).copied(names, id_column)


def pinned(backbone: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `Embedder`, with the present revision of a served backbone unless they have a revision.

    Raises TypeError for an option that neither `Embedder` nor, for a served backbone, the Client has.
    """
    embedder_options = inspect.signature(Embedder).parameters
    client_options = {key: options[key] for key in options.keys() - embedder_options.keys()}
    check_client_options(backbone, client_options)
    if "://" not in backbone or options.get("revision") is not None:
        return dict(options)
    return {**options, "revision": RemoteEmbedder(backbone, **client_options).revision}
