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


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_option_of_the_command_leads_to_the_argument(kind: Any) -> None:
    """`--tls-roots` of the command is `tls` of a client, in `Tls(roots=...)`."""
    with pytest.raises(TypeError, match=f"^{kind.__name__} got an unexpected argument 'tls_roots': did you mean 'tls'"):
        kind("localhost:1", tls_roots="roots.pem")


@pytest.mark.parametrize("name", ["sentences", "documents"])
def test_the_name_that_another_library_has_for_texts_leads_to_ours(name: str) -> None:
    """`sentences` is the argument of sentence-transformers; nothing is sent before the error."""
    with pytest.raises(TypeError, match=f"^got an unexpected argument '{name}': did you mean 'texts'"):
        Client("localhost:1").embed("minilm", **{name: ["a"]})  # type: ignore[arg-type] # the wrong name is the test


async def test_a_client_in_the_other_kind_of_with_says_which_to_use() -> None:
    """Python's own error names a protocol in place of the remedy."""
    with pytest.raises(TypeError, match=r"^AsyncClient needs `async with AsyncClient"), AsyncClient("localhost:1"):
        pass
    with pytest.raises(TypeError, match=r"^Client needs `with Client"):
        async with Client("localhost:1"):
            pass


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
