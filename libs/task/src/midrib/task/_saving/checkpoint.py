"""The content of a task's checkpoint, and how a task is made from it without the network."""

from __future__ import annotations

import inspect
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from midrib.backbones._loaders.file_kinds import damaged_member
from midrib.task._base import TaskBase
from midrib.task._features.backbone import (
    BackboneRecipe,
    DeferredBackbone,
    OpenedBackbone,
    check_revisions,
    is_remote,
    revision_of,
)

KEY = "midrib"
FORMAT = "0.1"
_PREFIX = "backbone."
# These arguments depend on the machine that a task runs on.
_NEVER_KEPT = ("cache",)
_SECRETS = ("token",)

T = TypeVar("T", bound=TaskBase)


class CheckpointError(ValueError):
    """A checkpoint that this version cannot read, or that lacks arguments that must be passed again."""


def caller_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor's call, by name, as the caller wrote them."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc] # the constructor of any class
    bound = signature.bind_partial(None, *args, **kwargs).arguments
    named = dict(list(bound.items())[1:])
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name, {})
    return named


def split_plain(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments that a checkpoint can hold, and the names of the others: functions and modules."""
    kept = {name: value for name, value in arguments.items() if name not in _NEVER_KEPT}
    backbone = kept.get("backbone")
    recipe = backbone.recipe if isinstance(backbone, OpenedBackbone) else backbone
    if isinstance(recipe, BackboneRecipe):
        kept |= {"backbone": recipe.name, "backbone_kwargs": recipe.kwargs}
    plain, left_out = {}, []
    for name, value in kept.items():
        try:
            plain[name] = _plain(value)
        except TypeError:
            left_out.append(name)
    return plain, sorted(left_out)


def _plain(value: Any) -> Any:
    """Return the value in builtin types, without secrets.  Raises TypeError for functions, modules and the like."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in _SECRETS}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"got a value of type {type(value).__name__}, expected builtin types, lists and mappings")


def record(task: TaskBase) -> dict[str, Any]:
    """Return the note of a checkpoint: its format, and the backbone's recipe with the revision of its weights."""
    recipe = replace(task.recipe, revision=task.revision)
    kept, left_out = split_plain({"kwargs": recipe.kwargs})
    # A loader whose arguments are objects must be passed again.
    recipe = replace(recipe, name=None, kwargs={}) if left_out else replace(recipe, **kept)
    return {
        "format": FORMAT,
        "task": type(task).__name__,
        "not_kept": task.unsaved_arguments,
        "backbone": asdict(recipe),
    }


def check(task: TaskBase, checkpoint: Mapping[str, Any]) -> None:
    """Raise CheckpointError or RevisionError if the checkpoint is not for this task's backbone."""
    note = _note(checkpoint)
    if is_remote(task.backbone):
        recorded = note["backbone"]["revision"]
        check_revisions(str(task.recipe.name), task.revision, "the checkpoint", recorded)


def restore(cls: type[T], checkpoint: Mapping[str, Any], overrides: dict[str, Any], *, strict: bool) -> T:
    """Return the task in a checkpoint.  overrides: arguments that replace the saved ones, or that were not saved.

    Raises CheckpointError if an argument that was not saved is missing, RevisionError if the backbone differs from the
    saved one.
    """
    note = _note(checkpoint)
    missing = [name for name in note["not_kept"] if name not in overrides and name != "backbone"]
    if missing:
        raise CheckpointError(
            f"this {note['task']} was made with {', '.join(missing)} that a checkpoint cannot hold (functions, "
            f"modules): pass them again, as in load_from_checkpoint(path, {missing[0]}=...)"
        )
    arguments = {**checkpoint.get("hyper_parameters", {}), "backbone_kwargs": None, **overrides}
    if "backbone" not in overrides:
        recipe = BackboneRecipe(**note["backbone"])
        kwargs = recipe.kwargs | (arguments.pop("backbone_kwargs") or {})
        arguments["backbone"] = replace(recipe, kwargs=kwargs)
    try:
        task = cls(**arguments)
    except TypeError as error:
        raise CheckpointError(f"this checkpoint holds a {note['task']}, loaded as {cls.__name__}: {error}") from error
    _load_state(task, checkpoint["state_dict"], strict)
    _check_weights(task, note["backbone"]["revision"], checkpoint["state_dict"])
    return task


def _note(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return Midrib's part of a checkpoint. Raises CheckpointError for another format."""
    note: dict[str, Any] | None = checkpoint.get(KEY)
    if note is None:
        raise CheckpointError(
            f"this checkpoint was not made by a midrib Task, it holds {list(checkpoint)[:5]}: load it by its own class"
        )
    if note["format"] != FORMAT:
        raise CheckpointError(
            f"this checkpoint has format {note['format']}, and this midrib-task reads {FORMAT}: install the version "
            "that made it"
        )
    return note


def _load_state(task: TaskBase, saved: Mapping[str, Any], strict: bool) -> None:
    """Load the weights; a backbone that has moved to or from a server keeps the weights that it has there."""
    state = {name: value for name, value in saved.items() if not name.startswith(_PREFIX)}
    saved_backbone = {name: value for name, value in saved.items() if name.startswith(_PREFIX)}
    backbone = {f"{_PREFIX}{name}": value for name, value in task.backbone.state_dict().items()}
    loaded = OrderedDict(state | (saved_backbone if saved_backbone and backbone else backbone))
    if hasattr(saved, "_metadata"):  # torch's versions of the modules, by which quantised layers read their state
        loaded._metadata = {**task.state_dict()._metadata, **saved._metadata}  # type: ignore[attr-defined] # noqa: SLF001
    task.load_state_dict(loaded, strict=strict)


def _check_weights(task: TaskBase, recorded: str | None, saved: Mapping[str, Any]) -> None:
    if recorded is None or isinstance(task.backbone, DeferredBackbone):
        return
    state = task.backbone.state_dict()
    # Weights of another precision have another revision, so there is nothing to compare.
    if any(f"{_PREFIX}{name}" in saved and _kind(saved[f"{_PREFIX}{name}"]) != _kind(state[name]) for name in state):
        return
    check_revisions(str(task.recipe.name), revision_of(task.backbone, task.input), "the checkpoint", recorded)


def _kind(value: object) -> object:
    """Return the dtype of a tensor, the type of another value, such as the packed parameters of quantised layers."""
    return value.dtype if isinstance(value, Tensor) else type(value)


def export(task: TaskBase, path: str | os.PathLike[str]) -> None:
    """Write the task as one safetensors file, its arguments and recipe in the header.

    Raises CheckpointError if its state holds other values than tensors, as that of quantised layers does.
    """
    header = {"note": record(task), "hyper_parameters": dict(task.hparams)}
    state = task.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_quantized:
            raise CheckpointError(
                f"cannot export {name!r}, a {type(value).__name__} of a quantised layer: export the task before its "
                "backbone is quantised, or save a Trainer's checkpoint"
            )
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    save_file(tensors, path, metadata={KEY: json.dumps(header)})


def read_export(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of an exported file in the form of a checkpoint.

    Raises FileNotFoundError if the file does not exist, CheckpointError if it is damaged or of another kind.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(_unreadable(path, "a file of Task.export", error)) from error
    if header is None:
        raise CheckpointError(_unreadable(path, "a file of Task.export", "its header has no task"))
    return {KEY: header["note"], "hyper_parameters": header["hyper_parameters"], "state_dict": state}


def read(path: str | os.PathLike[str], map_location: Any) -> dict[str, Any]:
    """Return the content of a Trainer's checkpoint; nothing in it is executed.

    Raises FileNotFoundError if the file does not exist, CheckpointError if it is damaged or holds code.
    """
    try:
        member = damaged_member(Path(path))
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        # torch raises nearly every kind of error for damaged bytes, and its text advises to read the file unsafely.
        raise CheckpointError(_unreadable(path, "a Trainer's checkpoint", type(error).__name__)) from error
    if member is not None:
        raise CheckpointError(_unreadable(path, "a Trainer's checkpoint", f"checksum of its member {member}"))
    if not isinstance(checkpoint, dict):
        raise CheckpointError(_unreadable(path, "a Trainer's checkpoint", f"it holds a {type(checkpoint).__name__}"))
    return checkpoint


def _unreadable(path: str | os.PathLike[str], expected: str, problem: object) -> str:
    return f"{os.fspath(path)} is not {expected}, or it is damaged ({problem}): check the path, or write it again"
