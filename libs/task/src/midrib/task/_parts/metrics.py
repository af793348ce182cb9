"""Means of losses, and metrics, updated at every step, with a copy for each stage and loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from midrib.task._parts.names import unique_names

MetricFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
AnyMetric: TypeAlias = Metric | MetricFunction
MetricsLike: TypeAlias = AnyMetric | MetricCollection | Sequence[AnyMetric] | Mapping[str, AnyMetric] | None


class RowMean(Metric):
    """The mean over rows of a value that is a mean over each batch, such as a loss."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.rows: Tensor
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, rows: int) -> None:
        """Count a batch: the mean [] of its rows, and their number."""
        self.total += mean.detach() * rows
        self.rows += rows

    def compute(self) -> Tensor:
        """Return the mean [] over all rows."""
        return self.total / self.rows


class FunctionMetric(RowMean):
    """A function of (predictions, targets), averaged over batches by their rows."""

    def __init__(self, function: MetricFunction) -> None:
        super().__init__()
        self.function = function

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # type: ignore[override] # torchmetrics' own takes anything
        """Count a batch: predictions and targets [rows, ...], as the function expects them."""
        RowMean.update(self, self.function(predictions, targets), len(predictions))


class _Counted(nn.Module):
    """The losses and metrics of one loader of one stage."""

    def __init__(self, losses: Sequence[str], metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict({name: RowMean() for name in losses})
        self.metrics = nn.ModuleDict({name: metric.clone() for name, metric in metrics.items()})

    def named(self) -> dict[str, Metric]:
        return cast("dict[str, Metric]", dict(self.losses.items()) | dict(self.metrics.items()))


class StageMetrics(nn.Module):
    """The mean of every loss and a copy of every metric, for each stage and each of its loaders.

    So no stage counts the rows of another one, and no validation set those of another set.
    """

    def __init__(self, metrics: MetricsLike) -> None:
        super().__init__()
        self._given = nn.ModuleDict(_named(metrics))
        self._counted = nn.ModuleDict()

    def update(
        self, stage: str, losses: Mapping[str, Tensor], predictions: Tensor, targets: Tensor, *, loader: int = 0
    ) -> None:
        """Count a batch: its losses [] by their names, and for the metrics its predictions and targets [rows, ...]."""
        key = f"{stage}_{loader}"
        if key not in self._counted:
            templates = cast("dict[str, Metric]", dict(self._given.items()))
            # In train mode, because Lightning would warn of copies that its sanity check left in eval mode.
            self._counted[key] = _Counted(list(losses), templates).to(predictions.device).train()
        counted = cast("_Counted", self._counted[key])
        for name, loss in losses.items():
            counted.losses[name].update(loss, len(predictions))  # type: ignore[operator] # a ModuleDict forgets types
        for metric in counted.metrics.values():
            metric.update(predictions, targets)  # type: ignore[operator] # a ModuleDict forgets types

    def take(self, stage: str) -> dict[str, Tensor]:
        """Return the values [] of a stage by their logged names, the same on all ranks, and reset it."""
        counted = self._counted_in(stage)
        suffix = "/dataloader_idx_{}" if len(counted) > 1 else ""  # as Lightning names them
        values = {
            f"{stage}_{name}{suffix.format(loader)}": metric.compute()
            for loader, names in enumerate(counted)
            for name, metric in names.items()
        }
        self.reset(stage)
        return values

    def reset(self, stage: str) -> None:
        """Reset all losses and metrics of a stage."""
        for metric in (metric for names in self._counted_in(stage) for metric in names.values()):
            metric.reset()

    def _counted_in(self, stage: str) -> list[dict[str, Metric]]:
        """Return for each loader the losses and metrics that have counted a batch since the last reset."""
        all_names = [cast("_Counted", value).named() for key, value in self._counted.items() if key.startswith(stage)]
        return [names for names in all_names if any(metric.update_called for metric in names.values())]


def _named(metrics: MetricsLike) -> dict[str, Metric]:
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping | MetricCollection):
        named: Mapping[str, AnyMetric] = dict(metrics.items())
    else:
        named = unique_names("metrics", metrics)
    return {name: _as_metric(name, metric) for name, metric in named.items()}


def _as_metric(name: str, metric: AnyMetric) -> Metric:
    """Return the metric. Raises TypeError for a value that is neither a Metric nor a function."""
    if isinstance(metric, Metric):
        return metric
    if callable(metric) and not isinstance(metric, type):
        return FunctionMetric(metric)
    raise TypeError(
        f"metrics has {name!r}, which is {metric!r} of type {type(metric).__name__}, expected a torchmetrics Metric, a "
        "function of (predictions, targets), a list of them, or a mapping from names to them"
    )
