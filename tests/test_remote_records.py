"""A name with several DNS records: each machine behind it takes part."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import trustme

from midrib.remote import RemoteBackbone
from midrib.remote._connect import dns
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
