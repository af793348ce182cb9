"""Optimizers by name, class or callable."""

from __future__ import annotations

import inspect
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
    """One group, or two where the backbone has a learning rate of its own.

    The backbone's parameters are in it from the start, frozen or not: an optimizer passes by what has no gradient, and
    unfreezing then changes nothing that a scheduler or a checkpoint has already counted.
    """
    ours, theirs = list(head), list(backbone)
    if backbone_learning_rate is None or not theirs:
        return [{"params": ours + theirs}]
    return [{"params": ours}, {"params": theirs, "lr": backbone_learning_rate}]


def check_optimizer(given: OptimizerLike, registry: AnyRegistry) -> None:
    """Raise UnknownKeyError for an unknown name and TypeError for a form that is not accepted."""
    _parsed(given, registry)


def build_optimizer(
    given: OptimizerLike, groups: list[dict[str, Any]], learning_rate: float | None, *, registry: AnyRegistry
) -> Optimizer:
    """Make the optimizer over these groups.

    learning_rate: given to it as lr, unless the user's own arguments hold one; None leaves the optimizer's default.
    Raises TypeError for a form that is not accepted, or if the callable returns no optimizer.
    """
    spec = _parsed(given, registry)
    kwargs = dict(spec.kwargs)
    if learning_rate is not None and _lacks_lr(spec.factory):
        kwargs.setdefault("lr", learning_rate)
    # A single group goes in as plain parameters, for LBFGS takes no groups.
    optimizer = spec.make(groups if len(groups) > 1 else groups[0]["params"], **kwargs)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer {given!r} made {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    return optimizer


def _parsed(given: OptimizerLike, registry: AnyRegistry) -> Spec:
    if isinstance(given, Optimizer):
        raise TypeError(
            f"optimizer got an instance of {type(given).__name__}, which is bound to other parameters: pass its name, "
            f"as in optimizer={type(given).__name__.lower()!r}, or its class"
        )
    return parse("optimizer", given, registry)


def _lacks_lr(factory: Callable[..., Any]) -> bool:
    """Whether the factory takes lr and has none yet: a partial may hold one."""
    return "lr" in inspect.signature(factory).parameters and "lr" not in getattr(factory, "keywords", {})
