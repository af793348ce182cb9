"""The device and the options that a backbone computes with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ComputeConfig:
    """The device and the options that a backbone computes with.

    device, dtype: torch's names.  strict: the module computes every row alone and unpadded, so that its bits depend on
    nothing else.  compile: the backend of torch.compile; None to leave the module as it is.
    graphs: replay CUDA graphs of the usual batches; without effect on a CPU.
    """

    device: str = "cpu"
    dtype: str = "float32"
    strict: bool = False
    compile: str | None = None
    graphs: bool = False
