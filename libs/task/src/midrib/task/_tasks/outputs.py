"""What predict gives for each row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from midrib.registry import Registry
from midrib.task._base import TaskBase
from midrib.task._parts.specs import parse


class Prediction:
    """One batch on its way out; features and logits are computed once, when an output first asks for them."""

    def __init__(self, task: TaskBase, inputs: Any) -> None:
        self.task = task
        self.inputs = inputs

    @functools.cached_property
    def features(self) -> Tensor:
        """The backbone's features: [batch, num_features]."""
        return self.task.features(self.inputs)

    @functools.cached_property
    def logits(self) -> Tensor:
        """What the task's forward returns: [batch, num_outputs]."""
        logits: Tensor = self.task(self.inputs)
        return logits


Output: TypeAlias = Callable[..., Any]
OutputLike: TypeAlias = str | Output | tuple[str | Output, Mapping[str, Any]]

OUTPUTS = Registry("outputs")


@OUTPUTS(name="logits")
def logits(prediction: Prediction) -> Tensor:
    """The head's outputs as they are: [batch, num_outputs]."""
    return prediction.logits


@OUTPUTS(name="embeddings")
def embeddings(prediction: Prediction) -> Tensor:
    """The backbone's features: [batch, num_features]."""
    return prediction.features


def output_of(task: TaskBase, inputs: Any, given: OutputLike) -> Any:
    """The rows of one batch: a tensor, or a list where rows are no numbers."""
    spec = parse("output", given, task.outputs)
    return spec.factory(Prediction(task, inputs), **spec.kwargs)
