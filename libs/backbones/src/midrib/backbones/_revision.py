"""The digest that names a served function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from midrib.registry import ImageInput, InputSpec

# Fields that input specs got after the first release, with the values that they had implicitly before.
_ADDED_DEFAULTS = (("width", None), ("border", False))

# How often the preprocessing of a kind of input has changed, if it did: 2 scales an image before it is cropped.
_PREPROCESSING: Mapping[type[InputSpec], int] = {ImageInput: 2}


def revision(module: nn.Module, spec: InputSpec, dtype: str) -> str:
    """Return a digest of everything that decides a backbone's answers: SHA-256, in hexadecimal.

    It covers the state dict (names, dtypes, shapes, bytes), the input spec and its preprocessing, the compute dtype
    and, if the module has them, `module.settings`: values that change the answer without being weights (pooling,
    prompt, tokenizer).
    The digest is the same on every little-endian machine and in every process. It reads each byte once.
    Raises TypeError if state or settings hold a value that JSON cannot write.
    """
    digest = hashlib.sha256()
    head = {
        "input": [type(spec).__name__, _fields(spec), *_preprocessing(spec)],
        "dtype": dtype,
        "settings": getattr(module, "settings", {}),
    }
    digest.update(_line(head))
    state = module.state_dict()
    for name in sorted(state):
        _add(digest, name, state[name])
    return digest.hexdigest()


def _fields(spec: InputSpec) -> dict[str, object]:
    """Return a spec's fields, without those of a later version at their defaults: older revisions stay valid."""
    return {name: value for name, value in asdict(spec).items() if (name, value) not in _ADDED_DEFAULTS}


def _preprocessing(spec: InputSpec) -> list[int]:
    version = _PREPROCESSING.get(type(spec))
    return [] if version is None else [version]


def _add(digest: hashlib._Hash, name: str, value: Tensor | object) -> None:
    if not isinstance(value, Tensor):
        digest.update(_line([name, value]))
        return
    tensor = value.detach().cpu().contiguous()
    digest.update(_line([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]))
    # Bytes, not values: bfloat16 has no numpy type. A tensor without elements has no bytes to view.
    if tensor.numel():
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _line(value: object) -> bytes:
    """Return canonical JSON and a line end, so that different lists of lines never join into the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: object) -> object:
    """Return a mapping as a dict, which JSON can write. Raises TypeError for any other value."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(
        f"got {type(value).__name__} in a backbone's state or settings, expected values that JSON can write"
    )
