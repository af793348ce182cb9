"""Many threads on one registry."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from midrib.registry import DuplicateKeyError, Registry

_THREADS = 8
_ROUNDS = 50


class YieldingName(str):
    """A name that lets other threads run whenever it is hashed: in the middle of every step of a registry."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def load() -> tuple[Any, int]:
    """A loader."""
    return abs, 1


def together(work: Callable[[int], None], threads: int = _THREADS) -> None:
    """Run work(0), work(1)… at once, each in its thread; raises the first error of any."""
    start = threading.Barrier(threads)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's thread)
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in errors:
        raise error


def test_no_registration_is_lost() -> None:
    """Every thread's entries are there, by key and by the name that all of them share."""
    registry = Registry("backbones")

    def work(number: int) -> None:
        for turn in range(_ROUNDS):
            registry(load, name=YieldingName("x"), namespace=f"{number}/{turn}")

    together(work)
    assert len(registry.available_keys()) == _THREADS * _ROUNDS
    assert len(registry.get("x", strict=False)) == _THREADS * _ROUNDS


def test_of_one_identity_one_thread_registers() -> None:
    """The others get the error, with any timing."""
    registry = Registry("backbones")
    refused: list[int] = []

    def work(number: int) -> None:
        for turn in range(_ROUNDS):
            try:
                registry(load, name=YieldingName(f"x-{turn}"))
            except DuplicateKeyError:
                refused.append(turn)

    together(work)
    assert len(registry) == _ROUNDS
    assert sorted(refused) == sorted(list(range(_ROUNDS)) * (_THREADS - 1))


def test_a_reader_never_sees_half_an_override() -> None:
    """An entry that is replaced is there at every moment, once."""
    registry = Registry("backbones")
    registry(load, name=YieldingName("x"), aliases="y")

    written = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for _ in range(10):
                registry(load, name=YieldingName("x"), aliases="y", override=True)
            written.set()
        while not written.is_set():
            assert list(registry) == ["x"] if number % 2 else registry.get("y") is load

    together(work, threads=3)  # with more readers, the writer would rarely run


def test_registering_and_removing_interleave() -> None:
    """If each thread removes the entries that it added, the registry ends as it began."""
    registry = Registry("backbones")
    registry(load, name="kept")

    def work(number: int) -> None:
        for _ in range(_ROUNDS):
            registry(load, name=f"x-{number}", namespace="a")
            assert registry.load(f"a/x-{number}") == (abs, 1)
            registry.remove(f"x-{number}")

    together(work)
    assert list(registry) == ["kept"]


def test_an_old_name_warns_one_thread() -> None:
    """Once in the process means once."""
    registry = Registry("backbones")
    registry(load, name="new", deprecated_aliases="old-among-threads")

    def work(number: int) -> None:
        registry.get("old-among-threads")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        together(work)
    messages = [str(warning.message) for warning in caught]
    assert messages == ["'old-among-threads' is an old name and will be removed: use 'new'"]
