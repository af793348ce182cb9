"""`midrib embed --ray`: the command reads and writes the files, and actors of a Ray cluster embed their items."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayTaskError

from midrib.ray._connect import connect
from midrib.ray._embedder import open_backbone
from midrib.remote._files.embedders import with_prompt
from midrib.wire import Array, RevisionMismatchError

# Calls for each actor: one that is computed and one that waits.
_AHEAD: Final = 2


class ClusterEmbedder:
    """A backbone in actors of a Ray cluster: one for each GPU, or for each node if there are none.

    An actor that dies is started again, and embeds its items again.
    address: the cluster: "auto", ip:port, ray://host:port, or "local" for one on this machine.
    backbone: grpc://host:port/namespace/name, or 'namespace/name?argument=value' to load it into each actor.
    imports: modules that register backbones.  kwargs: the Client's.
    concurrency: how many calls keep all actors busy.
    Raises ConnectionError if no cluster can be joined at the address, the errors of loading the backbone, and
    RevisionMismatchError if it differs between actors.
    """

    def __init__(self, address: str, backbone: str, *, imports: Sequence[str] = (), **kwargs: Any) -> None:
        """Start the actors. Raises RevisionMismatchError if the nodes load different revisions."""
        connect(address, log_to_driver=False)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = gpus or len([node for node in ray.nodes() if node["Alive"]])
        options = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        actor = ray.remote(_Actor).options(
            max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD", **options
        )
        self._actors = [actor.remote(backbone, tuple(imports), kwargs) for _ in range(count)]
        self._next = itertools.cycle(self._actors)
        functions = set(_results([actor.function.remote() for actor in self._actors]))
        if len(functions) > 1:
            revisions = ", ".join(sorted(revision[:12] for _, revision, _ in functions))
            raise RevisionMismatchError(
                f"the nodes load {backbone} with revisions {revisions}, expected one: install the same packages and "
                "weights on all nodes"
            )
        [(self.name, self.revision, self.num_features)] = functions
        self.concurrency = _AHEAD * count
        self._prompt: tuple[str | None, str | None] = (None, None)

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values, [values, num_features]; raise the backbone's errors."""
        values = [value.read_bytes() if isinstance(value, Path) else value for value in values]
        [features] = _results([next(self._next).embed.remote(kind, values, self._prompt)])
        return features  # type: ignore[no-any-return] # Ray's results have no types

    def close(self) -> None:
        """End the actors and leave the cluster."""
        ray.shutdown()

    def with_prompt(self, prompt: str | None, prompt_name: str | None) -> ClusterEmbedder:
        """Return the same embedder with another prompt for its texts; None for the backbone's default.

        Raises InvalidInputError or UnsupportedError for a prompt that the backbone does not have.
        """
        embedder = copy.copy(self)
        embedder._prompt = (prompt, prompt_name)  # noqa: SLF001 - a copy of this object
        _results([self._actors[0].check_prompt.remote(embedder._prompt)])  # noqa: SLF001
        return embedder


class _Actor:
    """Embeds items in a process of the cluster."""

    def __init__(self, backbone: str, imports: Sequence[str], client_options: dict[str, Any]) -> None:
        self._embedder = open_backbone(backbone, imports, client_options)

    def function(self) -> tuple[str, str, int]:
        """Return the backbone's name, revision and number of features."""
        return self._embedder.name, self._embedder.revision, self._embedder.num_features

    def embed(self, kind: str, values: list[Any], prompt: tuple[str | None, str | None]) -> Array:
        """Return the features of values, [values, num_features]."""
        return with_prompt(self._embedder, *prompt)(kind, values)

    def check_prompt(self, prompt: tuple[str | None, str | None]) -> None:
        """Raise an error for a prompt that the backbone does not have."""
        with_prompt(self._embedder, *prompt)


def _results(references: Sequence[Any]) -> list[Any]:
    """Return the results of calls; raise the error of the first that failed, as the actor raised it."""
    try:
        results: list[Any] = ray.get(list(references))
    except RayTaskError as error:
        raise error.cause from error
    return results
