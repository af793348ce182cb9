"""Stand-ins for torch.cuda, which a machine without a GPU lacks.

They compute at once, on the CPU, and note who touches which memory and what a stream or the host may rely on by then
(vector clocks: Mattern 1989). Two that touch the same memory must do it in an order; on a GPU it would otherwise be
chance. A graph's stand-in runs the operations that it saw again, in the same memory. What only hardware shows is in
`test_forward_cuda.py`.
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
    """A stream, or the host. seen: how far each timeline had come, of what has happened before its next operation."""

    def __init__(self) -> None:
        self.now = 0
        self.seen: dict[Timeline, int] = defaultdict(int)

    def follow(self, seen: dict[Timeline, int]) -> None:
        for other, time in seen.items():
            self.seen[other] = max(self.seen[other], time)

    def step(self) -> None:
        self.now += 1
        self.seen[self] = self.now


class Event:
    def __init__(self, host: Timeline, seen: dict[Timeline, int]) -> None:
        self._host, self._seen = host, dict(seen)

    def synchronize(self) -> None:
        self._host.follow(self._seen)


class Stream(Timeline):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def wait_stream(self, other: Stream) -> None:
        if self._watch.streams_wait:
            self.follow(other.seen)

    def record_event(self) -> Event:
        return Event(self._watch.host, self.seen)

    def synchronize(self) -> None:
        self._watch.host.follow(self.seen)


class UnorderedError(AssertionError):
    """Two timelines touch the same memory in no order."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not type it
    """Sees every operation of torch, and who runs it.

    streams_wait: whether streams do where they are told to.
    recorded: what memory the allocator was told to be in use by which stream.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not type it
        self.streams_wait = True
        self.host = self.current = Timeline()
        self.recorded: set[tuple[int, Timeline]] = set()
        self.pinned: set[int] = set()
        self._home: dict[int, Timeline] = {}
        self._touched: dict[int, dict[tuple[Timeline, bool], int]] = defaultdict(dict)
        self._kept: list[Tensor] = []  # an address is not to come again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.current.follow(self.host.seen)  # the host has launched it by now, and no sooner
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
        """Device memory used by another stream than the one that allocated it, which does not know of that."""
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
            if (writes or wrote) and who.seen[other] < time:
                raise UnorderedError("two touch the same memory in no order")
        self._touched[address][who, writes] = who.now


class Graph(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not type it
    """Runs what it saw once more, in the memory of then."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not type it
        self.replays = 0
        self._seen: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._seen.append((func, args, kwargs or {}, result))
        return result

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self._seen:
            again = func(*args, **kwargs)
            if address_of(again) != address_of(result):
                result.copy_(again)


def address_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture()
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """torch.cuda of one GPU: its memory is the CPU's, copied to and from. The watch is still to be entered."""
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
        made = empty(*shape, **kwargs)
        watch.pinned |= {address_of(made)} if pin_memory else set()
        return made

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
