"""The rules of shared memory that servers and clients share."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from midrib.wire import SHARED_ALIGNMENT, aligned, can_share_memory, peer_user


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 64), (64, 64), (65, 128), (2**40 + 1, 2**40 + 64)])
def test_sizes_are_rounded_up_to_the_alignment(size: int, expected: int) -> None:
    """So that the tensor behind is aligned."""
    assert (aligned(size), expected % SHARED_ALIGNMENT) == (expected, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux names the peer")
def test_the_kernel_names_the_peer_of_a_socket() -> None:
    """Here both ends are of this process."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        assert peer_user(first) == os.geteuid()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_share_no_memory(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """They have neither sealed memory nor such sockets."""
    monkeypatch.setattr(sys, "platform", system)
    assert not can_share_memory()
