"""Stand-ins for torch.cuda, which a machine without a GPU lacks.

They compute on the CPU, and record which stream uses which memory, and which earlier operations it may rely on (vector
clocks: Mattern 1989). Two streams that use the same memory must be ordered: on a GPU the result would otherwise depend
on chance. A graph's stand-in repeats the operations that it captured, in the same memory. `test_forward_cuda.py` tests
the behaviour that needs hardware.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from midrib.server._compute.staging import StagingBuffer


class Timeline:
    """A stream, or the host. clocks: for each timeline, the last operation that precedes the next one of this."""

    def __init__(self) -> None:
        self.now = 0
        self.clocks: dict[Timeline, int] = defaultdict(int)

    def follow(self, clocks: dict[Timeline, int]) -> None:
        for other, time in clocks.items():
            self.clocks[other] = max(self.clocks[other], time)

    def step(self) -> None:
        self.now += 1
        self.clocks[self] = self.now


class Event:
    def __init__(self, host: Timeline, clocks: dict[Timeline, int]) -> None:
        self._host, self._clocks = host, dict(clocks)

    def synchronize(self) -> None:
        self._host.follow(self._clocks)


class Stream(Timeline):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def wait_stream(self, other: Stream) -> None:
        if self._watch.streams_wait:
            self.follow(other.clocks)

    def record_event(self) -> Event:
        return Event(self._watch.host, self.clocks)

    def synchronize(self) -> None:
        self._watch.host.follow(self.clocks)


class UnorderedError(AssertionError):
    """Two timelines use the same memory, and nothing orders them."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not type it
    """Records every operation of torch and its stream.

    streams_wait: whether `wait_stream` has an effect.
    recorded: the memory and the streams that `record_stream` was called with.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not type it
        self.streams_wait = True
        self.host = self.current = Timeline()
        self.recorded: set[tuple[int, Timeline]] = set()
        self.pinned: set[int] = set()
        self._home: dict[int, Timeline] = {}
        self._touched: dict[int, dict[tuple[Timeline, bool], int]] = defaultdict(dict)
        self._kept: list[Tensor] = []  # so that no address is used for another tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.current.follow(self.host.clocks)  # the host launches it now
        self.current.step()
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if isinstance(value, Tensor):
                self._touch(value, writes=bool(argument.alias_info and argument.alias_info.is_write))
        if isinstance(result, Tensor):
            self._touch(result, writes=not any(returned.alias_info for returned in func._schema.returns))
        return result

    def host_touches(self, address: int, *, writes: bool) -> None:
        self.host.step()
        self._note(address, self.host, writes=writes)

    def unrecorded(self) -> list[tuple[int, Timeline]]:
        """Return device memory that a stream used which neither allocated it nor was recorded on it."""
        return [
            (address, who)
            for address, home in self._home.items()
            for who, _ in self._touched[address]
            if isinstance(who, Stream) and isinstance(home, Stream) and who is not home
            if address not in self.pinned and (address, who) not in self.recorded
        ]

    def _touch(self, tensor: Tensor, *, writes: bool) -> None:
        self._kept.append(tensor)
        self._note(address_of(tensor), self.current, writes=writes)

    def _note(self, address: int, who: Timeline, *, writes: bool) -> None:
        self._home.setdefault(address, who)
        for (other, wrote), time in self._touched[address].items():
            if (writes or wrote) and who.clocks[other] < time:
                raise UnorderedError("two streams use the same memory in no order")
        self._touched[address][who, writes] = who.now


class Graph(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not type it
    """Repeats the operations that it captured, in the same memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not type it
        self.replays = 0
        self._operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self._operations:
            again = func(*args, **kwargs)
            if address_of(again) != address_of(result):
                result.copy_(again)


def address_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture()
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Replace torch.cuda by one GPU whose memory is the CPU's. The test enters the watch."""
    watch, to, module_to, empty, fill = Watch(), Tensor.to, nn.Module.to, torch.empty, StagingBuffer.fill

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        watch.current = stream
        yield
        watch.current = watch.host

    @contextmanager
    def captured(graph: Graph, **_: Any) -> Iterator[None]:
        with graph:
            yield

    def pinned_empty(*shape: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        tensor = empty(*shape, **kwargs)
        watch.pinned |= {address_of(tensor)} if pin_memory else set()
        return tensor

    def noted_fill(self: StagingBuffer, index: int, arrays: Any) -> Tensor:
        filled = fill(self, index, arrays)
        watch.host_touches(address_of(filled), writes=True)
        return filled

    def moved(tensor: Tensor, where: Any, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(where, torch.device):  # a copy, in the type that is asked for
            return to(tensor.clone(), *args) if any(args) else tensor.clone()
        return to(tensor, where, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(watch))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(watch))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", captured)
    monkeypatch.setattr(torch, "empty", pinned_empty)
    monkeypatch.setattr(Tensor, "to", moved)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda tensor, stream: watch.recorded.add((address_of(tensor), stream))
    )
    monkeypatch.setattr(
        nn.Module, "to", lambda module, where: module if isinstance(where, torch.device) else module_to(module, where)
    )
    monkeypatch.setattr(StagingBuffer, "fill", noted_fill)
    return watch


@pytest.fixture()
def watch(stand_ins: Watch) -> Iterator[Watch]:
    """The stand-ins, with every operation of this thread seen."""
    with stand_ins:
        yield stand_ins
