"""Find averaged weights (EMA, SWA) in a training's checkpoint. They are preferred over the last ones, as by timm."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from midrib.backbones._errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    Weights: TypeAlias = Mapping[str, Tensor]

# Where training programs keep averaged weights by name.
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema_model_state_dict"),
    *("params_ema", "ema", "swa_state_dict", "swa_model", "swa_model_state_dict"),
)
# The words of such names in general.
_WORDS = frozenset({"ema", "swa", "shadow", "average", "averaged"})
_OPTIMIZERS = frozenset({"optim", "optimizer", "optimizers"})
_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$")
# The keys by which mmengine and mmcv name their version.
_OPEN_MMLAB = frozenset({"mmengine_version", "mmcv_version"})
# How many steps are in an average of Lightning's StochasticWeightAveraging.
_COUNT = "n_averaged"
_REMEDY = (
    "save the averaged weights by their names (copy them into the network, then save its state dict), or save a file "
    "with the last ones alone"
)


def is_average(name: str) -> bool:
    """Return whether the name of a container or of a weight's outermost module says that it holds averaged weights."""
    outermost = name.partition(".")[0]
    return not _WORDS.isdisjoint(re.split(r"[^a-z]+", outermost.lower())) and not _is_optimizer(outermost)


def named_tensors(value: object) -> int:
    """Return the number of tensors that a mapping, and the mappings inside it, hold by their names.

    Tensors without an axis are not counted: programs also average losses and metrics.
    """
    import torch

    if not isinstance(value, Mapping):
        return int(isinstance(value, torch.Tensor) and value.ndim > 0)
    return sum(named_tensors(inner) for name, inner in value.items() if isinstance(name, str))


def without_last_weights(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint of mmengine or mmcv without the weights that it calls averages; other checkpoints unchanged.

    Their EMA hooks swap both sets before they save: the state dict holds the averages, and `ema_state_dict` (mmengine)
    or buffers such as `ema_conv_weight` (mmcv), whose names have no dots, hold the last weights.
    """
    meta, weights = state.get("meta"), state.get("state_dict")
    if not isinstance(meta, Mapping) or not isinstance(weights, Mapping):
        return state
    if _OPEN_MMLAB.isdisjoint(meta):
        return state
    rest = {name: value for name, value in weights.items() if not (name.startswith("ema_") and "." not in name)}
    return {name: value for name, value in state.items() if not is_average(name)} | {"state_dict": rest}


def nested_averages(state: Mapping[str, Any], least: float, source: str) -> Mapping[str, Any] | None:
    """Return averaged weights by name that lie apart from the weights, such as in the state of a callback.

    fairseq keeps them in `extra_state`; Lightning's StochasticWeightAveraging, and callbacks of other projects, in
    `callbacks`.  least: fewer tensors are other averages.  source: the file, for the error.
    Raises WeightsError for averages whose batch normalisation has not been measured yet.
    """
    branches = [value for name, value in state.items() if isinstance(value, Mapping) and not _is_optimizer(str(name))]
    for branch in branches:
        for name, value in branch.items():
            if not isinstance(value, Mapping) or not is_average(str(name)) or named_tensors(value) < least:
                continue
            if branch.get(_COUNT) != 0:
                _require_measured(branch, value, source)
                return dict(value)
    return next(filter(None, (nested_averages(branch, least, source) for branch in branches)), None)


def _require_measured(callback: Mapping[str, Any], averages: Mapping[str, Any], source: str) -> None:
    """Raise WeightsError for averages of Lightning's StochasticWeightAveraging with batch normalisation.

    It measures the statistics of the averaged network at the end of the training only, and moves all of it into the
    state dict then.
    """
    if _COUNT in callback and any(_BUFFERS.search(name) for name in averages):
        raise WeightsError(
            f"{source} was saved while weights were being averaged (StochasticWeightAveraging), before the averaged "
            "network's batch normalisation was measured: save a checkpoint after the training (trainer.save_checkpoint)"
        )


def _is_optimizer(name: str) -> bool:
    return not _OPTIMIZERS.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def unnamed_averages(content: object, least: float, source: str) -> list[Tensor] | None:
    """Return averaged weights [...] that a checkpoint keeps as a list (`shadow_params` of diffusers and torch-ema).

    least: shorter lists are other averages, such as of losses.  source: the file, for the error.
    Raises WeightsError for a list in the order of an optimizer's groups of parameters, which is not the network's.
    """
    for holder, values in _lists(content):
        if len(values) >= least:
            _require_one_group(holder, source)
            return values
    return None


def _lists(content: object) -> Iterator[tuple[Mapping[str, Any], list[Tensor]]]:
    """Yield the lists of averages in a tree of containers, each with the mapping that holds it."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(name, str) and is_average(name) and _are_weights(value):
                yield content, list(value)
        yield from itertools.chain.from_iterable(map(_lists, content.values()))
    elif isinstance(content, list | tuple):
        yield from itertools.chain.from_iterable(_lists(value) for value in content if isinstance(value, Mapping))


def _require_one_group(holder: Mapping[str, Any], source: str) -> None:
    """Raise WeightsError if the mapping is the state of an optimizer with several groups, such as NeMo's."""
    for state in (holder, *holder.values()):
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        if isinstance(groups, list | tuple) and len(groups) > 1:
            raise WeightsError(
                f"{source} holds averaged weights as a list without names, in the order of an optimizer with "
                f"{len(groups)} groups of parameters: {_REMEDY}"
            )


def _are_weights(value: object) -> bool:
    import torch

    if not isinstance(value, list | tuple) or not all(isinstance(inner, torch.Tensor) for inner in value):
        return False
    return any(inner.ndim > 0 for inner in value)


def with_averages(weights: Weights, averages: list[Tensor], source: str) -> dict[str, Tensor]:
    """Return a state dict whose parameters [...] are replaced by averages, which are in the parameters' order.

    Buffers, such as those of batch normalisation, are not averaged and stay.
    source: the file, for the error.  Raises WeightsError unless there is one average per parameter, of the same shape:
    the names of the averages could only be guessed.
    """
    parameters = {name: value for name, value in weights.items() if _is_parameter(name, value)}
    shapes = ([value.shape for value in values] for values in (parameters.values(), averages))
    if any(expected != shape for expected, shape in itertools.zip_longest(*shapes)):
        raise WeightsError(
            f"{source} holds averaged weights as a list without names, {len(averages)} tensors that do not fit the "
            f"{len(parameters)} parameters beside it in number and shapes: {_REMEDY}"
        )
    return {**weights, **dict(zip(parameters, averages, strict=True))}


def _is_parameter(name: str, value: Any) -> bool:
    return bool(value.is_floating_point()) and _BUFFERS.search(name) is None


def refuse_lost_averages(state: Weights, kept: Weights, source: str) -> None:
    """Raise WeightsError if a state dict holds averages under a prefix, but none of them was kept.

    state: all tensors of the checkpoint.  kept: those that will be loaded.  source: the file, for the error.
    """
    averages = [name for name, value in state.items() if is_average(name) and value.ndim > 0]
    used = {id(value) for value in kept.values()}
    if averages and len(averages) * 2 >= len(kept) and not any(id(state[name]) in used for name in averages):
        raise WeightsError(
            f"{source} holds averaged weights, such as {averages[0]}, whose names are not those of the network: "
            f"{_REMEDY}"
        )
