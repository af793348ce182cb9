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
    Quantised modules keep their weights in packed parameters; those count with their levels, scales and zero points.
    Raises TypeError if state or settings hold a value that is neither a tensor nor one that JSON can write.
    """
    digest = hashlib.sha256()
    head = {
        "input": [type(spec).__name__, _fields(spec), *_preprocessing(spec)],
        "dtype": dtype,
        "settings": getattr(module, "settings", {}),
    }
    digest.update(canonical_line(head))
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
    if not isinstance(value, Tensor) or value.is_quantized:
        digest.update(canonical_line([name, value]))
        return
    digest.update(canonical_line([name, *_kind(value)]))
    if value.numel():
        digest.update(tensor_bytes(value))


def _kind(tensor: Tensor) -> list[object]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor [...] of at least one element: not values, because bfloat16 has no numpy type."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def canonical_line(value: object) -> bytes:
    """Return canonical JSON and a line end, so that different lists of lines never join into the same bytes.

    A tensor counts with its dtype, shape and the digest of its bytes.
    Raises TypeError for a value that is neither a tensor nor one that JSON can write.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: object) -> object:
    """Return a value in a form that JSON can write. Raises TypeError if there is none."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.ScriptObject):  # the packed parameters of quantised layers
        return value.__getstate__()
    raise TypeError(
        f"got {type(value).__name__} in a backbone's state or settings, expected tensors or values that JSON can write"
    )


def _plain_tensor(tensor: Tensor) -> object:
    if not tensor.is_quantized:
        return [*_kind(tensor), hashlib.sha256(tensor_bytes(tensor) if tensor.numel() else b"").hexdigest()]
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scales: list[object] = [tensor.q_scale(), tensor.q_zero_point()]
    else:
        scales = [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis()]
    return [*_kind(tensor), tensor.int_repr(), *scales]
