"""The public list, and the modules that it imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import midrib.remote
from midrib.remote import AsyncClient, Client


def test_the_public_list_is_this() -> None:
    """Adding or removing a name is a decision: it changes this test."""
    assert sorted(midrib.remote.__all__) == [
        "AsyncClient",
        "BackboneInfo",
        "Client",
        "EmbedOptions",
        "Progress",
        "RemoteBackbone",
        "RemoteRegistry",
        "StageTimes",
        "StreamOptions",
        "Tls",
        "ValueEmbedder",
        "Verdict",
        "doctor",
        "embed_files",
        "open_url",
    ]


@pytest.mark.parametrize(("old", "new"), [("Embedder", "ValueEmbedder"), ("Stall", "StageTimes")])
def test_a_name_of_an_earlier_version_is_its_new_name(old: str, new: str) -> None:
    """The old name works, with a warning that gives the new one."""
    with pytest.warns(DeprecationWarning, match=f"^midrib.remote.{old} is now {new}$"):
        assert getattr(midrib.remote, old) is getattr(midrib.remote, new)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_misspelt_argument_of_a_client_is_named(kind: Any) -> None:
    """The error suggests the nearest name."""
    with pytest.raises(TypeError, match=f"^{kind.__name__} got an unexpected argument 'tokn': did you mean 'token'"):
        kind("localhost:1", tokn="secret")


def test_the_numpy_client_needs_no_torch() -> None:
    """Installing and importing the client brings no torch; RemoteBackbone does, at its first mention."""
    code = (
        "import sys; sys.modules['torch'] = None; from midrib.remote import Client; Client('localhost:1');"
        "import midrib.remote as r\n"
        "try: r.RemoteBackbone\n"
        "except ImportError: print('torch asked for')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch asked for"
