"""Checkpoint files as training programs write them: read safely, and unwrapped to the weights of one network."""

from __future__ import annotations

import argparse
import pathlib
import string
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from midrib.backbones._errors import WeightsError

# Where training programs keep the weights, the first one present wins. timm prefers averaged weights too.
_CONTAINERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model_state_dict", "model_state", "model")
# Names that wrappers put before every weight: DDP, Lightning modules and Tasks. DINO nests them.
_PREFIXES = ("module.", "model.", "backbone.")
# Names that wrappers put in the middle too: torch.compile, FSDP and activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# torch's list of allowed classes belongs to the process: two threads must not restore it in turn.
_ALLOWING = threading.Lock()
_LFS_POINTER = b"version https://git-lfs"
_SNIFFED_BYTES = 512
_PRINTABLE = frozenset(string.printable.encode())


def read_state(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint: safetensors, or a torch file of tensors and plain values.

    An `argparse.Namespace` of plain values is accepted, because DINO and timm save their options so.
    Raises WeightsError, with the file's name, if the file does not exist, is damaged or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}: give the path of a .safetensors or a torch file")
    try:
        content = _content(path)
    except Exception as error:
        # The readers raise nearly every kind of error for damaged bytes. Their texts are not repeated: torch's own
        # advises to read the file unsafely.
        raise WeightsError(_unreadable(path, error)) from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(
            f"{path} holds no state dict, that is, no tensors by their names: save module.state_dict() as safetensors"
        )
    return dict(content)


def _content(path: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        return load_file(path)
    with _ALLOWING, torch.serialization.safe_globals(_plain_values()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _plain_values() -> list[Any]:
    """Return the classes of plain values that training programs save beside weights. Reading them runs no code."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # numpy moved this function between its versions
    numbers = [type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")]
    return [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, scalar, np.dtype, *numbers]


def _looks_like_safetensors(path: Path) -> bool:
    """Return whether a file of any name starts as safetensors do: the header's length, then JSON."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _unreadable(path: Path, error: Exception) -> str:
    hint = looks_like(path) or "save its state dict as safetensors"
    return f"{path} is not a checkpoint that can be read safely ({type(error).__name__}): {hint}"


def looks_like(path: Path) -> str | None:
    """Return what to do about a file that is not weights but a pointer, a web page or cut short; None if unknown."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_SNIFFED_BYTES)
    except OSError:
        return None
    if start.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, run `git lfs pull` where it was cloned"
    if not start:
        return "it is empty, download it again"
    if start.lstrip()[:1] == b"<" or all(byte in _PRINTABLE for byte in start):
        return "it holds text, such as the error page of a failed download: download it again"
    if path.suffix == ".safetensors":
        return "it is damaged or cut short, download it again"
    return None


def unwrapped(state: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the weights in a training's checkpoint, under the names that the network gives them.

    state: the content that `read_state` returned.  names: those of the network's state dict.
    Containers (`{"state_dict": …}`) are opened, preferring averaged weights and DINO's teacher; a container of another
    name is opened if no other holds tensors. The prefixes of DDP, torch.compile, FSDP, Lightning and DINO, and one that
    all names share, are removed if the network's names do not start with them. Weights outside a removed prefix belong
    to other parts of the training, such as its head, and are left out.
    """
    while container := _container(state):
        state = state[container]
    bare = {_without_wrappers(name): value for name, value in state.items() if _is_tensor(value)}
    while prefix := next((prefix for prefix in _prefixes(bare, names) if _is_wrapped(bare, prefix, names)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
    return bare


def _container(state: Mapping[str, Any]) -> str | None:
    """Return the key that holds the weights: a known one, or the only one that holds tensors."""
    usual = next((key for key in _CONTAINERS if isinstance(state.get(key), Mapping)), None)
    if usual is not None or any(map(_is_tensor, state.values())):
        return usual
    holders = [
        key for key, value in state.items() if isinstance(value, Mapping) and any(map(_is_tensor, value.values()))
    ]
    return holders[0] if len(holders) == 1 else None


def _prefixes(state: Collection[str], names: Collection[str]) -> Collection[str]:
    """Return the known prefixes, and the first part that all names share if the network knows most of the rest."""
    shared = f"{next(iter(state), '').partition('.')[0]}."
    rest = [name.removeprefix(shared) for name in state if name.startswith(shared)]
    is_common = len(rest) == len(state) and 2 * len(set(rest) & set(names)) >= len(rest) > 0
    return (*_PREFIXES, shared) if is_common else _PREFIXES


def _is_wrapped(state: Mapping[str, Any], prefix: str, names: Collection[str]) -> bool:
    """Return whether a prefix stands before the network's weights: all of them, or half of the checkpoint's."""
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
