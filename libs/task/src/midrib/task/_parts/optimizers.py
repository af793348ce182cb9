"""Optimizers by name, class or callable."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from midrib.registry import Registry
from midrib.task._parts.specs import AnyRegistry, Spec, parse

OptimizerLike: TypeAlias = str | Callable[..., Optimizer] | tuple[str | Callable[..., Optimizer], Mapping[str, Any]]

OPTIMIZERS = Registry("optimizers")
for _name in torch.optim.__all__:
    _class = getattr(torch.optim, _name)
    if isinstance(_class, type) and issubclass(_class, Optimizer) and _class is not Optimizer:
        OPTIMIZERS(_class, name=_name.lower())


def parameter_groups(
    head: Iterable[nn.Parameter], backbone: Iterable[nn.Parameter], backbone_learning_rate: float | None
) -> list[dict[str, Any]]:
    """Return one group, or two if the backbone has another learning rate.

    The backbone's parameters are included from the start, also if they are frozen: an optimizer skips parameters
    without a gradient, so unfreezing does not change the groups that a scheduler or a checkpoint refers to.
    """
    head_parameters, backbone_parameters = list(head), list(backbone)
    if backbone_learning_rate is None or not backbone_parameters:
        return [{"params": head_parameters + backbone_parameters}]
    return [{"params": head_parameters}, {"params": backbone_parameters, "lr": backbone_learning_rate}]


def checked_rate(argument: str, rate: float | None) -> float | None:
    """Return a learning rate. Raises TypeError or ValueError unless it is None, or a number of at least 0.

    argument: its name in errors.
    """
    if rate is None:
        return None
    expected = (
        f"{argument} got {rate!r:.80} of type {type(rate).__name__}, expected a number of at least 0, such as 0.001"
    )
    if isinstance(rate, bool | str | bytes) or not hasattr(rate, "__float__"):
        raise TypeError(expected)
    if not 0 <= float(rate) < math.inf:
        raise ValueError(expected)
    return rate


def check_optimizer(optimizer_like: OptimizerLike, registry: AnyRegistry) -> None:
    """Raise UnknownKeyError for an unknown name and TypeError for a form that is not accepted."""
    _parsed(optimizer_like, registry)


def build_optimizer(
    optimizer_like: OptimizerLike, groups: list[dict[str, Any]], learning_rate: float | None, *, registry: AnyRegistry
) -> Optimizer:
    """Make the optimizer over these groups.

    learning_rate: passed as lr, unless the user's arguments hold one; None leaves the optimizer's default.
    Raises TypeError for a form that is not accepted, or if the callable returns no optimizer.
    """
    spec = _parsed(optimizer_like, registry)
    kwargs = dict(spec.kwargs)
    if learning_rate is not None and _lacks_lr(spec.factory):
        kwargs.setdefault("lr", learning_rate)
    # A single group is passed as plain parameters, because LBFGS takes no groups.
    optimizer = spec.make(groups if len(groups) > 1 else groups[0]["params"], **kwargs)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer {optimizer_like!r} made {type(optimizer).__name__}, expected a torch.optim.Optimizer"
        )
    return optimizer


def _parsed(optimizer_like: OptimizerLike, registry: AnyRegistry) -> Spec:
    """Return the optimizer's factory. Raises TypeError for an instance."""
    if isinstance(optimizer_like, Optimizer):
        raise TypeError(
            f"optimizer got an instance of {type(optimizer_like).__name__}, which is bound to other parameters: pass "
            f"its name, as in optimizer={type(optimizer_like).__name__.lower()!r}, or its class"
        )
    return parse("optimizer", optimizer_like, registry)


def _lacks_lr(factory: Callable[..., Any]) -> bool:
    """Return whether the factory takes lr and has none yet; a partial may hold one."""
    return "lr" in inspect.signature(factory).parameters and "lr" not in getattr(factory, "keywords", {})
