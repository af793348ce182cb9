"""Freed memory is kept while the server is small, and returned to the system while it holds a flood of messages."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from midrib.server._command import memory_watch
from midrib.server._command.memory_watch import MemoryWatch, OwnMemory

MEBI = 2**20


class Process:
    """A process of a given size. looks: one entry for each look at it."""

    def __init__(self, mebibytes: int) -> None:
        self.mebibytes = mebibytes
        self.looks: asyncio.Queue[None] = asyncio.Queue()

    def resident(self) -> int:
        self.looks.put_nowait(None)
        return self.mebibytes * MEBI


async def returns_at(process: Process, watch: MemoryWatch, mebibytes: int) -> bool:
    """Return whether freed memory is returned once the watch has seen the process at a size."""
    process.mebibytes = mebibytes
    while not process.looks.empty():
        process.looks.get_nowait()
    for _ in range(2):  # the first look is used up before the next one begins
        await process.looks.get()
    return watch.returns


async def test_freed_memory_is_returned_while_the_process_has_grown() -> None:
    """This begins at a growth of 16 MiB, and ends when the growth is below 8 MiB."""
    process = Process(100)
    with closing(MemoryWatch(process.resident)) as watch:
        decisions = [await returns_at(process, watch, size) for size in (110, 120, 110, 105, 110)]
    assert decisions == [False, True, True, False, False]


async def test_the_smallest_size_counts() -> None:
    """A process that has loaded a backbone is larger then than it is later."""
    process = Process(100)
    with closing(MemoryWatch(process.resident)) as watch:
        assert [await returns_at(process, watch, size) for size in (80, 100)] == [False, True]
        await returns_at(process, watch, 80)


async def test_a_process_that_stays_large_is_not_trimmed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has loaded another backbone, for example. It is trimmed again once it has grown further."""
    trims: list[None] = []
    monkeypatch.setattr(memory_watch, "release_freed_memory", lambda: trims.append(None))
    process = Process(100)
    with closing(MemoryWatch(process.resident)) as watch:
        numbers = []
        for size in (130, 130, 130, 140, 140):
            await returns_at(process, watch, size)
            await returns_at(process, watch, size)
            numbers.append(len(trims))
    assert numbers == [1, 1, 1, 2, 2]


async def test_a_process_that_has_grown_for_good_keeps_its_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs that memory. A flood on top of that is noticed as before."""
    monkeypatch.setattr(memory_watch, "_LOOKS_UNTIL_LASTING", 3)
    process = Process(100)
    with closing(MemoryWatch(process.resident)) as watch:
        decisions = [await returns_at(process, watch, size) for size in (130, 131, 130, 140, 147)]
    assert decisions == [True, False, False, False, True]


def test_the_memory_of_this_process() -> None:
    """A block of 64 MiB adds its size. After `close`, the memory is unknown."""
    memory = OwnMemory()
    before = memory.resident_bytes()
    block = bytearray(b"x") * (64 * MEBI)
    grown = memory.resident_bytes() - before
    memory.close()
    assert len(block) - 4 * MEBI < grown < len(block) + 16 * MEBI
    assert memory.resident_bytes() == 0
