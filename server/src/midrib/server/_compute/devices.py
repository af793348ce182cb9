"""Devices: a CPU computes a staged batch when it is launched, a GPU on three overlapping streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from midrib.server._compute.parallel_passes import ParallelPasses

# From the tensors of a batch, [rows, ...] on the device and in the compute dtype, to its rows, [rows, num_features].
Run: TypeAlias = Callable[[Sequence[Tensor]], Tensor]


class Pending(Protocol):
    """Rows that are computed or copied back to the host.

    ready: whether `wait` returns at once.
    """

    ready: bool

    def wait(self) -> Tensor:
        """Wait for the rows, [rows, ...] on the host. Raises errors of the device."""
        ...


class Device(Protocol):
    """A device as its replica sees it.

    depth: the number of batches to hand over before the first is finished.
    pinned: whether staged batches should lie in page-locked memory.
    """

    depth: int
    pinned: bool

    def launch(self, staged: Sequence[Tensor], run: Run) -> Pending:
        """Start to compute a batch. Its tensors [rows, ...] must not change until `wait` has returned."""
        ...


def device_for(device: torch.device, dtype: torch.dtype) -> Device:
    """Return the device to compute on. dtype: the compute dtype, to which it converts floating tensors."""
    return CudaDevice(device, dtype) if device.type == "cuda" else CpuDevice(dtype)


def available_devices(device: str) -> list[str]:
    """Return the devices that a setting names: "cpu", "cuda" (all GPUs), "cuda:1", or "auto" (all GPUs, or the CPU).

    Raises ValueError if the setting names CUDA and torch sees no GPU.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device == "auto":
        return gpus or ["cpu"]
    if device.startswith("cuda") and not gpus:
        raise ValueError(f"device {device!r} was asked for, and torch sees no CUDA device here: use device='cpu'")
    return gpus if device == "cuda" else [device]


def use_tf32(allowed: bool) -> None:
    """Set whether float32 on a GPU may round its factors to TF32's ten bits, in matrix products and convolutions alike.

    It is off unless a setting allows it: torch itself allows it for convolutions. It holds for the whole process.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class CpuDevice:
    """A CPU: the launching thread or a pool of threads computes, while the next batch is staged.

    micro_batch_elements: rows x elements of one pass, at most; None for whole batches.
    parallel_passes: the pool that computes passes in parallel; if None, or for few rows, they run one by one.
    copies_inputs: whether a pass gets a copy of its inputs, because the module keeps them: their memory is used again.
    """

    depth = 2
    pinned = False

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.micro_batch_elements: int | None = None
        self.parallel_passes: ParallelPasses | None = None
        self.copies_inputs = False

    def launch(self, staged: Sequence[Tensor], run: Run) -> Pending:
        """Compute a batch of tensors [rows, ...] in micro-batches. Raises the errors of `run`."""
        pool = self.parallel_passes
        if pool is not None and len(staged[0]) < pool.width:
            pool = None
        count = self._micro_batches(staged[0], 1 if pool is None else pool.width)
        if count == 1:
            return ReadyRows(self._computed(staged, run).contiguous())
        micro_batches = zip(*(tensor.tensor_split(count) for tensor in staged), strict=True)
        works = [partial(self._computed, micro_batch, run) for micro_batch in micro_batches]
        # A module may return memory that its next pass overwrites.
        return ReadyRows(torch.cat([work().clone() for work in works] if pool is None else pool.run(works)))

    def _computed(self, tensors: Sequence[Tensor], run: Run) -> Tensor:
        rows = run([_as_computed(tensor, self._dtype, copies=self.copies_inputs) for tensor in tensors])
        return rows.detach() if rows.requires_grad else rows

    def _micro_batches(self, rows: Tensor, width: int) -> int:
        """Return the number of micro-batches of a batch, a multiple of `width`, at most one for each row.

        They have equal numbers of rows, within one: a small last one would cost nearly as much as a full one.
        """
        count, length = 1, rows.shape[0]
        if self.micro_batch_elements is not None and length:
            count = -(-length // max(1, self.micro_batch_elements // max(1, rows.numel() // length)))
        return max(1, min(length, -(-count // width) * width))


class CudaDevice:
    """Three streams: while one batch computes, the next is copied in and the one before is copied out.

    A freed tensor's memory goes back to the stream that allocated it. So the other streams that use the tensor are
    recorded on it, and its memory is not reused before they are done.
    """

    depth = 3
    pinned = True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        torch.cuda.current_stream(device).synchronize()  # the weights were copied on it
        self._copying_in, self._computing, self._copying_out = (_stream(device) for _ in range(3))

    def launch(self, staged: Sequence[Tensor], run: Run) -> Pending:
        """Queue the copies of the tensors [rows, ...] and the computation; do not wait. Raises the errors of `run`."""
        with torch.cuda.stream(self._copying_in):
            arrived = [tensor.to(self._device, non_blocking=True) for tensor in staged]
        self._computing.wait_stream(self._copying_in)
        with torch.cuda.stream(self._computing):
            for tensor in arrived:
                tensor.record_stream(self._computing)
            rows = run([_as_computed(tensor, self._dtype) for tensor in arrived]).detach().contiguous()
        self._copying_out.wait_stream(self._computing)
        with torch.cuda.stream(self._copying_out):
            # From torch's cache of page-locked memory, to which it returns once the last of its rows has been sent.
            host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True, device="cpu")
            host.copy_(rows, non_blocking=True)
            rows.record_stream(self._copying_out)
            return RowsInFlight(host, self._copying_out.record_event())


class ReadyRows:
    """Rows that are already on the host."""

    ready = True

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def wait(self) -> Tensor:
        """Return the rows, [rows, ...]."""
        return self._rows


class RowsInFlight:
    """Rows that a GPU still computes or copies. read: recorded behind the copy to the host."""

    ready = False

    def __init__(self, rows: Tensor, read: torch.cuda.Event) -> None:
        self._rows = rows
        self._read = read

    def wait(self) -> Tensor:
        """Wait for the copy to the host; return the rows [rows, num_features]."""
        self._read.synchronize()
        return self._rows


def _as_computed(tensor: Tensor, dtype: torch.dtype, *, copies: bool = False) -> Tensor:
    """Return a tensor in the compute dtype if it is floating; converted on its device, after it was copied there.

    copies: whether to return other memory also if there is nothing to convert.
    """
    if tensor.dtype != dtype and tensor.is_floating_point():
        return tensor.to(dtype)
    return tensor.clone() if copies else tensor


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch does not type it
