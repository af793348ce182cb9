"""A name with several DNS records: each machine behind it takes part."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
import trustme

from midrib.remote import RemoteBackbone
from midrib.remote._connect import dns
from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.event_loop import current_runtime
from midrib.remote._connect.unary import run_on_loop
from midrib.remote.testing import serving
from tests.twice_backbone import NAME, ROWS, Twice, new_registry


@pytest.fixture()
def _two_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is two machines."""

    def look_up(_: str, port: int, **__: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (ip, port)) for ip in ("127.0.0.2", "127.0.0.1", "127.0.0.1")]

    monkeypatch.setattr(dns, "getaddrinfo", look_up)


@pytest.mark.usefixtures("_two_records")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_every_machine_behind_a_name_computes(tmp_path: Path, secure: bool) -> None:
    """One call's rows go to both, which answer only if the other was asked too; certificates name the host."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "roots.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    tls: dict[str, Any] = {"tls_certificate": tmp_path / "own.pem", "tls_key": tmp_path / "own.pem"} if secure else {}
    together = threading.Barrier(2)
    modules = [Twice(together), Twice(together)]
    with serving(NAME, registry=new_registry(modules[0]), **tls) as first:
        port = int(first.address.rpartition(":")[2])
        with serving(NAME, registry=new_registry(modules[1]), host="127.0.0.2", port=port, **tls):
            url = f"grpc://localhost:{port}/{NAME}"
            backbone = RemoteBackbone(url, timeout=120.0, tls=tmp_path / "roots.pem" if secure else None)
            x = 1000 + torch.arange(2.0 * ROWS).reshape(ROWS, 2)
            assert torch.equal(backbone(x), 2 * x)
    assert [module.waits for module in modules] == [False, False]


@pytest.mark.usefixtures("_two_records")
@pytest.mark.parametrize("address", ["127.0.0.1:5", "[::1]:5"])
async def test_an_ip_address_is_one_machine(address: str) -> None:
    """Nothing is looked up for it."""
    assert await dns.resolve_all(address) == []


@pytest.mark.usefixtures("_two_records")
async def test_records_are_each_named_once_and_in_order() -> None:
    """So that each stream has another machine."""
    assert await dns.resolve_all("gpu-boxes:5") == ["127.0.0.1:5", "127.0.0.2:5"]


async def test_a_name_that_dns_does_not_answer_delays_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its look-ups wait; an exit does not wait for them either."""
    answers = threading.Event()

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "localhost" or answers.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]

    monkeypatch.setattr(dns, "getaddrinfo", look_up)
    silent = [asyncio.ensure_future(dns.resolve_all(f"silent-{n}:5")) for n in range(50)]
    assert await asyncio.wait_for(dns.resolve_all("localhost:5"), 30) == ["127.0.0.1:5", "127.0.0.2:5"]
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "midrib-dns")
    answers.set()
    await asyncio.gather(*silent)


def test_the_channels_to_machines_that_left_a_name_are_closed() -> None:
    """Those to the machines of its last records stay."""

    async def states() -> list[grpc.ChannelConnectivity]:
        endpoint = Endpoint(("fleet:5",))
        channels = [current_runtime().channel(f"127.0.0.{n}:5", endpoint, "fleet") for n in range(1, 101)]
        await asyncio.gather(*current_runtime()._closing)  # - in their own tasks
        return [channel.get_state() for channel in channels]

    closed = [state is grpc.ChannelConnectivity.SHUTDOWN for state in run_on_loop(states)]
    assert closed == [True] * (100 - 2 * dns.MAX_MACHINES) + [False] * (2 * dns.MAX_MACHINES)
