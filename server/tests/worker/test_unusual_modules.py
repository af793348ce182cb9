"""Unusual outputs, errors and changes of state by a module, in both kinds of workers: later items get their rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server.testing import serving
from midrib.wire import Array, InternalError

Embed = Callable[[Array], Array]
SOUND = np.array([[1, 2], [3, 4]], np.float32)
LARGE = np.full((3000, 2), 3, np.float32)


@pytest.fixture(scope="module", params=["thread", "process"])
def embed(request: pytest.FixtureRequest, misbehaving: Registry) -> Iterator[Embed]:  # - its folder can be imported
    """Embed a tensor by the backbone of unusual.py, with one kind of workers."""
    registry: Registry = importlib.import_module("unusual").REGISTRY
    with (
        serving("unusual", registry=registry, workers=request.param, warm_up_s=0.0) as running,
        Client(running.address, timeout=60) as client,
    ):
        yield lambda rows: np.asarray(client.embed("unusual", rows))
    torch.set_default_dtype(torch.float32)


def trigger(name: str) -> Array:
    """The rows that have the module behave so."""
    module = importlib.import_module("unusual")
    return np.full((2, 2), module.FIRST_TRIGGER + module.NAMES.index(name), np.float32)


def check_later_items(embed: Embed) -> None:
    """Those of a known shape, and a batch for which memory is allocated."""
    assert embed(SOUND).tolist() == [[2, 4], [6, 8]]
    assert np.array_equal(embed(LARGE), 2 * LARGE)


@pytest.mark.parametrize(
    "name",
    [
        "its input",
        "an expanded column",
        "transposed memory",
        "a tensor that requires a gradient",
        "float64",
        "bfloat16",
    ],
)
def test_an_unusual_tensor_of_rows_is_served(embed: Embed, name: str) -> None:
    """Any floating tensor of the right shape, wherever its memory lies."""
    rows = trigger(name)
    np.testing.assert_allclose(embed(rows), 2 * rows, rtol=0.01)
    check_later_items(embed)


@pytest.mark.parametrize(
    "name",
    [
        "a sparse tensor",
        "a meta tensor",
        "a nested tensor",
        "a generator",
        "a list",
        "an array",
        "nothing",
        "a dictionary",
        "complex numbers",
        "whole numbers",
        "a number",
        "an error of 100 MB",
        "a circle of errors",
        "endless recursion",
        "KeyboardInterrupt",
        "CancelledError",
        "a group of errors",
        "EOFError",
        "BrokenPipeError",
    ],
)
def test_other_outputs_and_errors_fail_their_item_only(embed: Embed, name: str) -> None:
    """The error says where the log explains it, and later items get their rows."""
    with pytest.raises(InternalError, match="the server's log explains error"):
        embed(trigger(name))
    check_later_items(embed)


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # "garbage"
@pytest.mark.parametrize(
    "name",
    [
        "training mode",
        "training mode of a part",
        "default device",
        "default dtype",
        "gradients",
        "inference mode",
        "threads",
        "numpy's errors",
        "warnings",
        "garbage",
        "trace",
    ],
)
def test_a_module_that_changes_the_state_of_its_process_spoils_no_later_item(embed: Embed, name: str) -> None:
    """Dropout stays off, and memory is allocated where the engine needs it."""
    rows = trigger(name)
    assert np.array_equal(embed(rows), 2 * rows)
    check_later_items(embed)
