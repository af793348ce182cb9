"""The outputs that predict returns for each row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sized
from typing import Any, TypeAlias

from torch import Tensor

from midrib.registry import ContractError, Registry
from midrib.task._base import TaskBase
from midrib.task._parts.specs import parse


class Prediction:
    """One predicted batch; features and logits are computed once, at the first use."""

    def __init__(self, task: TaskBase, inputs: Any) -> None:
        self.task = task
        self.inputs = inputs

    @functools.cached_property
    def features(self) -> Tensor:
        """Return the backbone's features: [batch, num_features]."""
        return self.task.features(self.inputs)

    @functools.cached_property
    def logits(self) -> Tensor:
        """Return the result of the task's forward: [batch, num_outputs]."""
        logits: Tensor = self.task(self.inputs)
        return logits


Output: TypeAlias = Callable[..., Any]
OutputLike: TypeAlias = str | Output | tuple[str | Output, Mapping[str, Any]]

OUTPUTS = Registry("outputs")


@OUTPUTS(name="logits")
def logits(prediction: Prediction) -> Tensor:
    """Return the head's outputs: [batch, num_outputs]."""
    return prediction.logits


@OUTPUTS(name="embeddings")
def embeddings(prediction: Prediction) -> Tensor:
    """Return the backbone's features: [batch, num_features]."""
    return prediction.features


def output_of(task: TaskBase, inputs: Any, output: OutputLike) -> Any:
    """Return the rows of one batch: a tensor, or a list if rows are not numbers.

    Raises ContractError if the output has more or fewer rows than the batch, because each would be another item's.
    """
    spec = parse("output", output, task.outputs)
    rows = spec.factory(Prediction(task, inputs), **spec.kwargs)
    count = len(rows) if isinstance(rows, Sized) and not (isinstance(rows, Tensor) and rows.ndim == 0) else None
    if isinstance(inputs, Tensor | list | tuple) and count != len(inputs):
        shape = f"a tensor {list(rows.shape)}" if isinstance(rows, Tensor) else f"a {type(rows).__name__} of {count}"
        raise ContractError(
            f"output {output!r:.80} returned {shape} for a batch of {len(inputs)}, expected {len(inputs)} rows: return "
            "one row per item, from the output and from the task's forward"
        )
    return rows
