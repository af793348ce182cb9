"""Checkpoint files as training programs write them: read safely, and unwrapped to the weights of one network."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from midrib.backbones._errors import WeightsError
from midrib.backbones._loaders.averages import (
    AVERAGED,
    is_average,
    named_tensors,
    nested_averages,
    refuse_lost_averages,
    unnamed_averages,
    with_averages,
    without_last_weights,
)
from midrib.backbones._loaders.file_kinds import damaged_member, looks_like, refused_class

# Where they keep the weights; the first one that holds tensors is opened. The last three are VISSL's, one in the other.
_CONTAINERS = (
    *(*AVERAGED, "teacher", "state_dict", "model_state_dict", "model_state", "model", "params", "module"),
    *("classy_state_dict", "base_model", "trunk"),
)
# Names that wrappers put before every weight: averaged copies, which are preferred, DINO's teacher, MoCo's encoders,
# DDP, Lightning modules and Tasks. DINO nests them.
_PREFIXES = (
    *("ema_model.", "model_ema.", "teacher.", "encoder_q.", "base_encoder."),
    *("module.", "model.", "backbone."),
)
# Names that wrappers put in the middle too: torch.compile, FSDP and activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# The kinds and bits of the numbers in arrays that programs save beside weights, such as metrics and random states.
_NUMBERS = (
    *(("int", bits) for bits in (8, 16, 32, 64)),
    *(("uint", bits) for bits in (8, 16, 32, 64)),
    *(("float", bits) for bits in (16, 32, 64)),
)
# The containers of a checkpoint are searched one by one.
_MOST_CONTAINERS = 10_000_000
# torch's list of allowed classes belongs to the process: two threads must not restore it in turn.
_ALLOWING = threading.Lock()
# How the name ends of the list of files over which save_pretrained divides large weights, safetensors or pickles.
_INDEX = ".index.json"


def read_state(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint: safetensors, their index, or a torch file of tensors and plain values.

    An `argparse.Namespace` of plain values is accepted, because DINO and timm save their options so.
    Raises WeightsError, with the file's name, if the file does not exist, is damaged or holds anything else.
    """
    path = _existing(path)
    try:
        content = _content(path)
        _require_tree(content)
    except WeightsError:
        raise
    except Exception as error:
        # The readers raise nearly every kind of error for damaged bytes. Their texts are not repeated: torch's own
        # advises to read the file unsafely.
        raise WeightsError(_unreadable(path, error)) from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(
            f"{path} holds no state dict, that is, no tensors by their names: save module.state_dict() as safetensors"
        )
    return dict(content)


def _existing(location: str | Path) -> Path:
    """Return the path of a file. Raises WeightsError if there is none."""
    if not isinstance(location, str | Path):
        raise WeightsError(f"got checkpoint={location!r}, expected the path of a .safetensors or a torch file")
    if "://" in str(location):
        raise WeightsError(f"{location} is a URL: download the file, and give its path")
    path = Path(location)
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder: give one of its files, {_weight_files(path)}")
        if path.is_file():
            return path
    except OSError as error:
        raise WeightsError(f"no checkpoint at {str(path)[:100]} ({error.strerror}): check the path") from error
    raise WeightsError(f"no checkpoint at {location}: give the path of a .safetensors or a torch file")


def _weight_files(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    best = [name for name in names if name.endswith(_INDEX)]
    best = best or [name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt"))]
    return " or ".join(best[:3]) or "but it holds no weights (.safetensors, .pth, .pt, .bin, .ckpt)"


def _sharded(index: Path) -> dict[str, Any]:
    """Return the weights of all the files that an index names. Raises WeightsError if a file or a weight is missing."""
    files = _weight_map(index)
    weights: dict[str, Any] = {}
    for name in sorted(set(files.values())):
        shard = read_state(index.parent / Path(name).name)
        weights |= {weight: value for weight, value in shard.items() if files.get(weight, name) == name}
    if missing := sorted(files.keys() - weights.keys()):
        raise WeightsError(f"the files of {index} lack {missing[0]}: download them again, all of the same version")
    return weights


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each weight. Raises WeightsError if the index does not say it."""
    text = index.read_text(encoding="utf-8-sig", errors="replace")
    try:
        files = {str(weight): str(file) for weight, file in json.loads(text)["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = None if text.lstrip().startswith(("{", "[")) else looks_like(index)
        raise WeightsError(
            f"{index} is not an index of weights (no weight_map from names to files): {remedy or 'download it again'}"
        ) from error
    if any(file.endswith(_INDEX) for file in files.values()):
        raise WeightsError(f"{index} names another index in place of files of weights: download it again")
    return files


def _content(path: Path) -> Any:
    """Return the content of a checkpoint. Raises WeightsError if it is damaged."""
    import torch
    from safetensors.torch import load_file

    if path.name.endswith(_INDEX):
        return _sharded(path)
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        return load_file(path)
    # torch does not look at the checksums: a wrong bit would be a wrong weight.
    if (member := damaged_member(path)) is not None:
        raise WeightsError(f"{path} is damaged: the checksum of its member {member} is wrong, download it again")
    with _ALLOWING, torch.serialization.safe_globals(_plain_values()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_tree(content: object) -> None:
    """Raise RecursionError for containers that hold themselves, ValueError for too many: no search would end.

    A few containers count as billions if each holds the next one twice.
    """
    if (count := _places(content, {})) > _MOST_CONTAINERS:
        raise ValueError(f"it holds {count} containers, expected at most {_MOST_CONTAINERS}")


def _places(content: object, counted: dict[int, int]) -> int:
    """Return the number of containers in a tree, each as often as it is held.  counted: the numbers, by identity."""
    inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    containers = [value for value in inner if isinstance(value, Mapping | list | tuple)]
    for value in containers:
        if id(value) not in counted:
            counted[id(value)] = _places(value, counted)
    return 1 + sum(counted[id(value)] for value in containers)


def _plain_values() -> list[Any]:
    """Return the classes of plain values that training programs save beside weights. Reading them runs no code."""
    import numpy as np

    # numpy moved these functions between its versions
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    numbers = [type(np.dtype(name)) for name in ("bool", *(f"{kind}{bits}" for kind, bits in _NUMBERS))]
    return [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, scalar, array, np.ndarray, np.dtype, *numbers]


def _looks_like_safetensors(path: Path) -> bool:
    """Return whether a file of any name starts as safetensors do: the header's length, then JSON."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _unreadable(path: Path, error: Exception) -> str:
    hint = looks_like(path) or refused_class(error) or "save its state dict as safetensors"
    return f"{path} is not a checkpoint that can be read safely ({type(error).__name__}): {hint}"


def unwrapped(state: Mapping[str, Any], names: Collection[str], *, source: str) -> dict[str, Any]:
    """Return the weights in a training's checkpoint, under the names that the network gives them.

    state: the content that `read_state` returned.  names: those of the network's state dict.  source: the file.
    Containers (`{"state_dict": …}`) are opened, one inside the other, preferring averaged weights and DINO's teacher; a
    container of another name is opened if no other holds tensors. The prefixes of averaged copies, DDP, torch.compile,
    FSDP, Lightning and DINO, one that all names share, and the only one under which the whole network is, are removed
    if the network's names do not start with them. Weights outside a removed prefix belong to other parts of the
    training, such as its head, and are left out.
    Raises WeightsError, naming source, if the checkpoint holds averaged weights that cannot be told by their names.
    """
    state = without_last_weights(state)
    averages = unnamed_averages(state, len(names) / 4, source)  # up to half of the names are of buffers
    if not _averages(state, names):
        state = nested_averages(state, len(names) / 2, source) or state
    while container := _container(state, names):
        state = state[container]
        averages = None if is_average(container) else averages
    every = {_without_wrappers(name): value for name, value in state.items() if _is_tensor(value)}
    if averages is not None and every:
        every = with_averages(every, averages, source)
    bare = every
    while prefix := next((prefix for prefix in _prefixes(bare, names) if _is_wrapped(bare, prefix, names)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
    refuse_lost_averages(every, bare, source)
    return bare


def _averages(state: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Return the keys that hold averages of at least half as many tensors as there are names: others are of losses."""
    return [key for key, value in state.items() if 2 * named_tensors(value) >= len(names) and is_average(key)]


def _container(state: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Return the key of the weights: averaged weights, a known key, or the only key that holds tensors."""
    usual = next((key for key in _CONTAINERS if _holds_tensors(state.get(key))), None)
    if usual not in AVERAGED:
        usual = next((key for key in _averages(state, names) if _holds_tensors(state[key])), usual)
    if usual is not None or any(map(_is_tensor, state.values())):
        return usual
    holders = [key for key, value in state.items() if _holds_tensors(value)]
    return holders[0] if len(holders) == 1 else None


def _holds_tensors(value: object) -> bool:
    """Return whether a value maps names to tensors, or to such mappings.

    States of optimizers have numbers as names. Single numbers do not count: averaged weights may have their settings
    (`{"ema": {"updates": tensor(3)}}`) in a container that is called like that of the weights.
    """
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and (_is_tensor(inner) and inner.ndim > 0 or _holds_tensors(inner))
        for name, inner in value.items()
    )


def _prefixes(state: Collection[str], names: Collection[str]) -> Collection[str]:
    """Return the known prefixes, those that all names share, and the only one under which the whole network is.

    A shared prefix counts if the network knows most of the rest; two networks under two prefixes could both be meant.
    """
    usual = [prefix for prefix in _dotted(os.path.commonprefix(list(state))) if _knows_most(state, prefix, names)]
    any_name = min(names, default="")
    holders = {name.removesuffix(any_name) for name in state if name.endswith(f".{any_name}")}
    complete = [prefix for prefix in holders if all(f"{prefix}{name}" in state for name in names)]
    return (*_PREFIXES, *usual, *(complete if len(complete) == 1 else ()))


def _dotted(text: str) -> list[str]:
    """Return the prefixes of a text that end in a dot, the shortest first."""
    return [text[: place + 1] for place, character in enumerate(text) if character == "."]


def _knows_most(state: Collection[str], prefix: str, names: Collection[str]) -> bool:
    rest = {name.removeprefix(prefix) for name in state}
    return 2 * len(rest & set(names)) >= len(rest) > 0


def _is_wrapped(state: Mapping[str, Any], prefix: str, names: Collection[str]) -> bool:
    """Return whether a prefix begins the names of the network's weights: all of them, or half of the checkpoint's."""
    if not state or any(name.startswith(prefix) for name in names):
        return False
    inside = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return bool(inside) and (2 * len(inside) >= len(state) or inside >= set(names))


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
