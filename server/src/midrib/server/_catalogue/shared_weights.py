"""Weights in anonymous memory that all workers of a backbone map.

The first worker writes its weights there, once they are loaded. The workers of other replicas, and those that replace
a dead one, run the loader as well, and then replace their weights with these. On a CPU a second replica needs little
memory, and a loader with random weights gives the same function every time.

The memory is mapped copy-on-write: a module that writes to a buffer changes only the memory of its process.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_HEADER = struct.Struct("<QQ")
_ALIGNMENT = 64


class WeightsDifferError(RuntimeError):
    """A loader that was run again made a module with other weights than the first time."""


def share_weights(module: nn.Module, descriptor: int) -> bool:
    """Have a module on the CPU use the weights in a file of memory; an empty file gets those of the module.

    Returns whether the weights are those of another process now.
    Raises WeightsDifferError if the names, dtypes or shapes in the file are not those of the module.
    """
    weights = dict(_weights(module))
    layout, size = _layout(weights)
    adopted = _is_complete(descriptor)
    if adopted:
        _check(layout, _read_layout(descriptor))
    else:
        _write(descriptor, weights, layout, size)
    memory = torch.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    for name, weight in weights.items():
        weight.data = _view(memory, layout[name], weight)
    return adopted


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers that can be shared: plain tensors without gaps, on the CPU."""
    for name, weight in itertools.chain(module.named_parameters(), module.named_buffers()):
        plain = type(weight) in (Tensor, nn.Parameter) and weight.layout is torch.strided and not weight.is_quantized
        if plain and weight.device.type == "cpu" and weight.numel() and _is_dense(weight):
            yield name, weight


def _layout(weights: dict[str, Tensor]) -> tuple[dict[str, list[Any]], int]:
    """Return dtype, shape, strides and offset of each weight, and the size of the file."""
    layout: dict[str, list[Any]] = {}
    offset = 0
    for name, weight in weights.items():
        layout[name] = [str(weight.dtype), list(weight.shape), list(weight.stride()), offset]
        offset = -(-(offset + weight.nbytes) // _ALIGNMENT) * _ALIGNMENT
    start = -(-(_HEADER.size + len(json.dumps(layout)) + 32 * len(layout)) // mmap.PAGESIZE) * mmap.PAGESIZE
    for fields in layout.values():
        fields[3] += start
    return layout, max(start + offset, 1)


def _write(descriptor: int, weights: dict[str, Tensor], layout: dict[str, list[Any]], size: int) -> None:
    os.ftruncate(descriptor, size)
    with mmap.mmap(descriptor, size) as file:
        memory = torch.frombuffer(file, dtype=torch.uint8)
        for name, weight in weights.items():
            _view(memory, layout[name], weight).copy_(weight.detach())
        del memory  # a mapping that is in use cannot be closed
        encoded = json.dumps(layout).encode()
        file[_HEADER.size : _HEADER.size + len(encoded)] = encoded
        file[: _HEADER.size] = _HEADER.pack(1, len(encoded))  # last: a worker that dies before leaves no half weights


def _view(memory: Tensor, fields: list[Any], weight: Tensor) -> Tensor:
    flat = memory[fields[3] : fields[3] + weight.nbytes].view(weight.dtype)
    return flat.as_strided(weight.shape, weight.stride())


def _is_complete(descriptor: int) -> bool:
    return bool(_HEADER.unpack(os.pread(descriptor, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))[0])


def _read_layout(descriptor: int) -> dict[str, list[Any]]:
    _, length = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    layout: dict[str, list[Any]] = json.loads(os.pread(descriptor, length, _HEADER.size))
    return layout


def _check(layout: dict[str, list[Any]], first: dict[str, list[Any]]) -> None:
    """Raise WeightsDifferError if the loader made other weights than before."""
    if layout != first:
        differing = sorted(name for name in {*layout, *first} if layout.get(name) != first.get(name))
        raise WeightsDifferError(
            f"the loader made other weights than the first time ({', '.join(differing[:5])}): a loader must return "
            "the same module whenever it is called with the same arguments"
        )


def _is_dense(weight: Tensor) -> bool:
    """Return whether the elements fill a block of memory, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(weight.stride(), weight.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
