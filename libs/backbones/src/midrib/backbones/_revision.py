"""The digest that names a served function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from midrib.registry import InputSpec


def revision(module: nn.Module, spec: InputSpec, dtype: str) -> str:
    """Digest what decides a backbone's answers: sha-256, in hexadecimal.

    It covers the state dict (names, dtypes, shapes, bytes), the input spec, the compute dtype and `module.settings`,
    what changes the answer without being a weight (pooling, prompt, tokeniser), where the module has them.
    The same on every little-endian machine and in every process; it reads each byte once.
    """
    digest = hashlib.sha256()
    head = {
        "input": [type(spec).__name__, asdict(spec)],
        "dtype": dtype,
        "settings": getattr(module, "settings", {}),
    }
    digest.update(_line(head))
    state = module.state_dict()
    for name in sorted(state):
        _add(digest, name, state[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, value: Tensor | object) -> None:
    if not isinstance(value, Tensor):
        digest.update(_line([name, value]))
        return
    held = value.detach().cpu().contiguous()
    digest.update(_line([name, str(held.dtype).removeprefix("torch."), list(held.shape)]))
    # Bytes, not values: bfloat16 has no numpy type. A tensor without elements has no bytes to view.
    if held.numel():
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)


def _line(value: object) -> bytes:
    """Canonical JSON with an end: no two different lists of lines join into the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"got {type(value).__name__} in a backbone's state or settings, expected what JSON can write")
