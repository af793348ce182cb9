"""Which layers of the backbone train, and from which epoch on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from midrib.registry import Registry
from midrib.task._parts.specs import AnyRegistry

ALL_LAYERS = 1 << 30

# The number of the backbone's last layers that train in an epoch. A layer is a module with its own parameters or
# buffers.
Strategy: TypeAlias = Callable[[int], int]
StrategyLike: TypeAlias = str | tuple[str, Any] | Strategy | BaseFinetuning

FINETUNING_STRATEGIES = Registry("finetuning_strategies")


@FINETUNING_STRATEGIES(name="freeze")
def freeze(epoch: int) -> int:  # noqa: ARG001 (a strategy takes the epoch)
    """Train the head alone."""
    return 0


@FINETUNING_STRATEGIES(name="no_freeze")
def no_freeze(epoch: int) -> int:  # noqa: ARG001
    """Train everything from the start."""
    return ALL_LAYERS


@FINETUNING_STRATEGIES(name="freeze_unfreeze")
def freeze_unfreeze(epoch: int, unfreeze_epoch: int) -> int:
    """Train the head alone, and everything from unfreeze_epoch on."""
    return ALL_LAYERS if epoch >= _epoch("freeze_unfreeze", unfreeze_epoch) else 0


@FINETUNING_STRATEGIES(name="unfreeze_milestones")
def unfreeze_milestones(epoch: int, milestones: tuple[tuple[int, int], int]) -> int:
    """Train the head alone; from epoch `first` on also the last n layers; from epoch `second` on everything.

    milestones: ((first, second), n).
    Raises ValueError for other milestones.
    """
    try:
        (first, second), layers = milestones
    except (TypeError, ValueError):
        raise ValueError(
            f"finetuning 'unfreeze_milestones' got {milestones!r}, expected ((first_epoch, second_epoch), layers), as "
            "in ('unfreeze_milestones', ((5, 10), 5))"
        ) from None
    if _epoch("unfreeze_milestones", first) > _epoch("unfreeze_milestones", second) or _epoch("layers", layers) < 1:
        raise ValueError(
            f"finetuning 'unfreeze_milestones' got {milestones!r}, expected first_epoch <= second_epoch and at least "
            "one layer"
        )
    return 0 if epoch < first else layers if epoch < second else ALL_LAYERS


def _epoch(strategy: str, value: Any) -> int:
    """Return the epoch. Raises ValueError for another value than a number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"finetuning {strategy!r} got {value!r}, expected an epoch, counted from 0")
    return value


def parse_strategy(strategy_like: StrategyLike, registry: AnyRegistry) -> Strategy:
    """Read "name", ("name", its argument) or a function from the epoch to a number of layers.

    A finetuning callback of Lightning's freezes and unfreezes itself; until it does, the head alone trains.
    Raises UnknownKeyError for an unknown name, TypeError for another form, ValueError for a wrong argument.
    """
    if isinstance(strategy_like, BaseFinetuning):
        return freeze
    name, *arguments = strategy_like if isinstance(strategy_like, tuple | list) else (strategy_like,)
    if not (isinstance(name, str) or callable(name)) or len(arguments) > 1:
        raise TypeError(
            f"finetuning got {strategy_like!r}, expected a name, (name, argument), a finetuning callback of "
            "Lightning's, or a function from the epoch to the number of the backbone's last layers that train"
        )
    function = registry.get(name.lower()) if isinstance(name, str) else name
    strategy = functools.partial(_with_arguments, function, tuple(arguments))
    try:
        strategy(0)
    except TypeError as error:
        raise TypeError(f"finetuning {strategy_like!r}: {error}; pass ({name!r}, its argument)") from error
    return strategy


def _with_arguments(function: Callable[..., int], arguments: tuple[Any, ...], epoch: int) -> int:
    return function(epoch, *arguments)


class LayerFreezer:
    """Freezes and unfreezes a backbone's layers, and keeps the frozen ones in eval mode.

    A parameter that was frozen at the start stays frozen.  With train_bn, batch norms train with the head.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._layers = [name for name, module in backbone.named_modules() if _has_state(module)]
        self._trainable = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
        self._frozen: set[str] = set()

    def train_last(self, backbone: nn.Module, count: int, *, train_bn: bool) -> bool:
        """Let the last count layers train, and no others.  Returns whether that changed anything."""
        first = max(0, len(self._layers) - count)
        frozen = {
            name
            for name in self._layers[:first]
            if not (train_bn and isinstance(backbone.get_submodule(name), _BatchNorm))
        }
        changed = frozen != self._frozen
        self._frozen = frozen
        for name in self._layers:
            for path, parameter in backbone.get_submodule(name).named_parameters(prefix=name, recurse=False):
                parameter.requires_grad_(name not in frozen and path in self._trainable)
        return changed

    def settle(self, backbone: nn.Module) -> None:
        """Put the frozen layers into eval mode; if all are frozen, the backbone as a whole, dropout included."""
        frozen = [name for name in self._frozen if not _trains(backbone.get_submodule(name))]
        if len(frozen) == len(self._layers):
            backbone.eval()
        for name in frozen:
            backbone.get_submodule(name).training = False  # not eval(): its children may train


def _trains(layer: nn.Module) -> bool:
    """Return whether other code, such as a callback of Lightning's, has unfrozen a layer."""
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _has_state(module: nn.Module) -> bool:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(tensors)
