"""A worker that is killed at any step of its load: an error for that load, and nothing is left of it."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server._engine.description import State
from midrib.server._settings import BackboneSettings
from midrib.server.testing import RunningServer, serving
from midrib.wire import InternalError

STEPS = [
    "is-loaded",
    "is-described",
    "shares-weights",
    "measures-threads",
    "warms-up",
    "proves-parity",
    "replies",
]


@pytest.fixture(scope="module")
def registry(misbehaving: Registry) -> Registry:  # its folder can be imported
    return importlib.import_module("mortal").REGISTRY  # type: ignore[no-any-return] # a module is not typed


@pytest.fixture(scope="module")
def admin(registry: Registry) -> Iterator[RunningServer]:
    """A server that has loaded and unloaded the backbone before, so that only a leak adds files."""
    with serving(registry=registry, workers="process", admin=True, warm_up_s=0.05) as running:
        with Client(running.address, timeout=60) as client:
            client.load("mortal")
            client.unload("mortal")
        yield running


def memory_files() -> int:
    """The number of anonymous files of memory that this process has open for workers."""
    return sum("memfd:midrib" in target(path) for path in Path("/proc/self/fd").iterdir())


def target(path: Path) -> str:
    """The file that a link shows; "" if it has been closed since."""
    try:
        return str(path.readlink())
    except OSError:
        return ""


def freed_down_to(count: int) -> bool:
    """Whether at most `count` files are open within five seconds: a thread that ends a worker may still run."""
    waited = threading.Event()
    return any(memory_files() <= count or waited.wait(0.05) for _ in range(100))


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """Memory must be freed without waiting for the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_while_it_loads_costs_that_load_alone(admin: RunningServer, step: str) -> None:
    """The caller gets the reason, the state is FAILED, the memory is freed, and the next load is served."""
    before = memory_files()
    with Client(admin.address, timeout=60) as client:
        with pytest.raises(InternalError, match="the worker process of .* (was killed by SIGKILL|ended)"):
            client.load("mortal", step=step)
        entry = admin.server.catalogue.entry("mortal")
        assert (entry.state, entry.loaded) == (State.FAILED, None)
        assert freed_down_to(before)
        client.load("mortal")
        assert np.asarray(client.embed("mortal", np.ones((3, 2), np.float32))).shape == (3, 2)
        client.unload("mortal")


def test_a_killed_load_leaves_the_backbone_that_it_would_replace(admin: RunningServer) -> None:
    """Its rows are the same before and after."""
    with Client(admin.address, timeout=60) as client:
        client.load("mortal")
        before = np.asarray(client.embed("mortal", np.ones((1, 2), np.float32)))
        with pytest.raises(InternalError, match="the worker process"):
            client.load("mortal", replace=True, step="warms-up")
        assert np.array_equal(np.asarray(client.embed("mortal", np.ones((1, 2), np.float32))), before)
        client.unload("mortal")


def test_a_worker_of_the_second_replica_killed_while_it_loads_fails_the_load(admin: RunningServer) -> None:
    """The first replica's worker ends too."""
    requested = BackboneSettings(name="mortal", arguments={"step": "adopts-weights"}, replicas=2)
    before = memory_files()
    with pytest.raises(InternalError, match="the worker process of mortal was killed by SIGKILL"):
        admin.run(admin.server.catalogue.load(requested))
    assert freed_down_to(before)
