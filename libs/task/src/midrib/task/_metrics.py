"""Metrics, one copy for each stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from midrib.task._names import unique_names

STAGES = ("train", "val", "test")

MetricFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
AnyMetric: TypeAlias = Metric | MetricFunction
MetricsLike: TypeAlias = AnyMetric | MetricCollection | Sequence[AnyMetric] | Mapping[str, AnyMetric] | None


class FunctionMetric(Metric):
    """A function of (predictions, targets), averaged over batches by their rows."""

    full_state_update = False

    def __init__(self, function: MetricFunction) -> None:
        super().__init__()
        self.function = function
        self.total: Tensor
        self.rows: Tensor
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.total += self.function(predictions, targets).detach() * len(predictions)
        self.rows += len(predictions)

    def compute(self) -> Tensor:
        return self.total / self.rows


class StageMetrics(nn.Module):
    """A copy of every metric for each of train, val and test: no stage counts another's rows."""

    def __init__(self, given: MetricsLike) -> None:
        super().__init__()
        named = _named(given)
        # Under prefixed keys, for nn.ModuleDict refuses "train".
        self._stages = nn.ModuleDict(
            {f"{stage}_": nn.ModuleDict({name: m.clone() for name, m in named.items()}) for stage in STAGES}
        )

    def update(self, stage: str, predictions: Tensor, targets: Tensor) -> dict[str, Any]:
        """Count a batch; returns the stage's metrics by their logged names."""
        metrics = self._stages[f"{stage}_"]
        for metric in metrics.values():  # type: ignore[operator]
            metric.update(predictions, targets)
        return {f"{stage}_{name}": metric for name, metric in metrics.items()}  # type: ignore[operator]


def _named(given: MetricsLike) -> dict[str, Metric]:
    if given is None:
        return {}
    if isinstance(given, Mapping | MetricCollection):
        named: Mapping[str, AnyMetric] = dict(given.items())
    else:
        named = unique_names("metrics", given if isinstance(given, Sequence) else [given])
    return {name: _as_metric(name, metric) for name, metric in named.items()}


def _as_metric(name: str, metric: AnyMetric) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if callable(metric) and not isinstance(metric, type):
        return FunctionMetric(metric)
    raise TypeError(
        f"metrics has {name!r}, which is {metric!r} of type {type(metric).__name__}, expected a torchmetrics Metric, a "
        "function of (predictions, targets), a list of them, or a mapping from names to them"
    )
