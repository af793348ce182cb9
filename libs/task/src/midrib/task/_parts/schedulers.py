"""Learning rate schedulers by name, class or callable; the length of the training is filled in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias

from pytorch_lightning import Trainer
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from midrib.registry import Registry
from midrib.task._parts.specs import AnyRegistry, Spec, parse

_Factory: TypeAlias = Callable[..., LRScheduler]
LRSchedulerLike: TypeAlias = (
    str
    | _Factory
    | tuple[str | _Factory, Mapping[str, Any]]
    | tuple[str | _Factory, Mapping[str, Any], Mapping[str, Any]]
)

# Arguments of schedulers that step at every batch; all others step at every epoch, unless lightning_config differs.
_BY_STEP = ("total_steps", "num_training_steps", "step_size_up")
_HORIZONS = ("total_steps", "num_training_steps", "T_max")
_TRANSFORMERS = (
    "constant_schedule",
    "constant_schedule_with_warmup",
    "linear_schedule_with_warmup",
    "cosine_schedule_with_warmup",
    "cosine_with_hard_restarts_schedule_with_warmup",
    "polynomial_decay_schedule_with_warmup",
)

LR_SCHEDULERS = Registry("lr_schedulers")
for _name in lr_scheduler.__all__:
    if _name not in ("LRScheduler", "ChainedScheduler", "SequentialLR"):  # they are made of other schedulers
        LR_SCHEDULERS(getattr(lr_scheduler, _name), name=_name.lower())


class _FromTransformers:
    """A schedule of transformers; the library, which takes seconds to import, is imported at the first use."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._schedule())

    def __call__(self, optimizer: Optimizer, **kwargs: Any) -> LRScheduler:
        schedule: LRScheduler = self._schedule()(optimizer, **kwargs)
        return schedule

    def _schedule(self) -> Callable[..., Any]:
        from transformers import optimization

        schedule: Callable[..., Any] = getattr(optimization, f"get_{self.__name__}")
        return schedule


if find_spec("transformers") is not None:
    for _name in _TRANSFORMERS:
        LR_SCHEDULERS(_FromTransformers(_name), name=_name)


def check_lr_scheduler(scheduler_like: LRSchedulerLike | None, registry: AnyRegistry) -> None:
    """Raise UnknownKeyError for an unknown name and TypeError for a form that is not accepted."""
    if scheduler_like is not None:
        parse("lr_scheduler", scheduler_like, registry, takes_config=True)


def build_lr_scheduler(
    scheduler_like: LRSchedulerLike, optimizer: Optimizer, trainer: Trainer | None, *, registry: AnyRegistry
) -> dict[str, Any]:
    """Make the scheduler, as the dictionary that Lightning takes; a factory may return such a dictionary itself.

    The training's length and the optimizer's rates are filled in unless the user gave them; num_warmup_steps may be a
    share of the training, such as 0.1.  trainer: None outside of a fit, for schedulers that need no length.
    Raises TypeError for a form that is not accepted, ValueError if the length is needed and unknown.
    """
    spec = parse("lr_scheduler", scheduler_like, registry, takes_config=True)
    names = inspect.signature(spec.factory).parameters.keys() - getattr(spec.factory, "keywords", {}).keys()
    interval = spec.config.get("interval", "step" if names & set(_BY_STEP) else "epoch")
    result = spec.make(optimizer, **_filled(spec, names, optimizer, _Horizon(trainer, interval)))
    config = dict(result) if isinstance(result, Mapping) else {"scheduler": result}
    scheduler = config.get("scheduler")
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"lr_scheduler {scheduler_like!r} made {type(scheduler).__name__}, expected an LRScheduler, or Lightning's "
            "dictionary with one under 'scheduler'"
        )
    defaults = {"interval": interval}
    if isinstance(scheduler, ReduceLROnPlateau):
        defaults["monitor"] = "val_loss" if trainer is None or trainer.enable_validation else "train_loss"
    return defaults | config | spec.config


class _Horizon:
    """The number of steps of the scheduler, computed only if it is needed, because that may load the data."""

    def __init__(self, trainer: Trainer | None, interval: str) -> None:
        self._trainer = trainer
        self._interval = interval

    def __int__(self) -> int:
        """Return the length of the training. Raises ValueError if it is not known."""
        by_step = self._interval == "step"
        length: float | None = None
        if self._trainer is not None:
            length = self._trainer.estimated_stepping_batches if by_step else self._trainer.max_epochs
        if length is None or not 0 < length < float("inf"):
            raise ValueError(
                f"the scheduler needs the training's length in {self._interval}s, which is not known here: "
                "pass max_epochs or max_steps to the Trainer, or the length among the scheduler's own arguments"
            )
        return int(length)


def _filled(spec: Spec, names: set[str], optimizer: Optimizer, horizon: _Horizon) -> dict[str, Any]:
    kwargs = dict(spec.kwargs)
    missing = names - kwargs.keys()
    for name in _HORIZONS:
        if name in missing and not _sets_own_length(kwargs):
            kwargs[name] = int(horizon)
    if "max_lr" in missing:
        kwargs["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    if "base_lr" in missing:
        kwargs["base_lr"] = [group["lr"] / 10 for group in optimizer.param_groups]
    if "num_warmup_steps" in names:
        warmup = kwargs.get("num_warmup_steps", 0)
        kwargs["num_warmup_steps"] = int(warmup * int(horizon)) if isinstance(warmup, float) else warmup
    return kwargs


def _sets_own_length(kwargs: Mapping[str, Any]) -> bool:
    return "epochs" in kwargs and "steps_per_epoch" in kwargs  # the other form of OneCycleLR's length
