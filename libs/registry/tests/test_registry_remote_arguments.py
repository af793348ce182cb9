"""Arguments of a loader that a client of a server may set: declared ones, and never one that can name a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import Registry


def load(width: int = 2, kind: str = "plain", checkpoint: str = "", source: Path | None = None) -> tuple[Any, int]:
    return (width, kind, checkpoint, source), width


def load_files(weights_file: str = "", log_dir: str = "", stream: str | Path = "") -> tuple[Any, int]:
    return (weights_file, log_dir, stream), 1


def entry(loader: Callable[..., Any] = load, **declared: Any) -> Any:
    registry = Registry("remote arguments")
    registry(loader, name="backbone", **declared)
    return registry.get("backbone", with_metadata=True)


@pytest.mark.parametrize(
    ("argument", "value", "is_remote"),
    [
        pytest.param("width", 3, True, id="a number"),
        pytest.param("width", True, True, id="a bool"),
        pytest.param("kind", "other", False, id="a string"),
        pytest.param("checkpoint", 3, False, id="a number for a path: a file descriptor"),
        pytest.param("source", 3, False, id="a number for a Path"),
        pytest.param("unknown", 3, False, id="an argument that the loader lacks"),
    ],
)
def test_without_a_declaration_numbers_are_remote(argument: str, value: object, is_remote: bool) -> None:
    """A number cannot name a file, a string can."""
    assert entry().is_remote(argument, value) is is_remote


@pytest.mark.parametrize(
    ("declared", "argument", "value", "is_remote"),
    [
        pytest.param(["kind"], "kind", "other", True, id="declared"),
        pytest.param(["kind"], "width", 3, False, id="not declared"),
        pytest.param("kind", "kind", "other", True, id="a single name"),
        pytest.param([], "width", 3, False, id="declared empty"),
    ],
)
def test_a_declaration_replaces_the_default(declared: Any, argument: str, value: object, is_remote: bool) -> None:
    """Only the declared arguments are remote, strings included."""
    assert entry(remote_arguments=declared).is_remote(argument, value) is is_remote


@pytest.mark.parametrize(
    ("loader", "argument"),
    [
        pytest.param(load, "checkpoint", id="name"),
        pytest.param(load, "source", id="annotation"),
        pytest.param(load_files, "weights_file", id="word of a name"),
        pytest.param(load_files, "log_dir", id="short word of a name"),
        pytest.param(load_files, "stream", id="part of an annotation"),
    ],
)
def test_an_argument_that_can_name_a_file_cannot_be_declared(loader: Callable[..., Any], argument: str) -> None:
    """Otherwise a client could read the server's files."""
    with pytest.raises(ValueError, match=f"remote_arguments '{argument}', which can name a file of the server"):
        entry(loader, remote_arguments=[argument])


def test_an_argument_that_the_loader_lacks_cannot_be_declared() -> None:
    """The error lists the loader's arguments."""
    with pytest.raises(ValueError, match="parameters of its loader: width, kind, checkpoint, source"):
        entry(remote_arguments=["wdith"])


def test_a_declaration_is_part_of_the_description() -> None:
    """Listings show it; it is not free metadata."""
    registry = Registry("remote arguments")
    registry(load, name="backbone", remote_arguments=["kind"])
    described = registry.describe("backbone")
    assert (described.remote_arguments, described.metadata) == (("kind",), {})
