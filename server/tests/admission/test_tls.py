"""TLS on both ports of a real server: who gets through, and certificates that change while it runs."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from midrib.registry import AbstractRegistry
from midrib.server import Settings
from midrib.server._admission import tls
from midrib.server._admission.tls import TlsFiles
from midrib.server._grpc.listen import add_port, grpc_server
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

pytestmark = pytest.mark.usefixtures("front")

ROW = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))


def embed(channel: grpc.Channel) -> list[int]:
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    request = embedding_pb2.EmbedRequest(backbone="linear", input=ROW)
    return list(stub.Embed(request, timeout=10).embedding.shape)


class Certificates:
    """A certificate authority and certificates that it signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.roots = self._authority.cert_pem.bytes()
        self.files: dict[str, Any] = {
            "tls_certificate": folder / "server.pem",
            "tls_key": folder / "server.key",
            "tls_client_ca": folder / "ca.pem",
        }
        self.files["tls_client_ca"].write_bytes(self.roots)
        self.client = self._authority.issue_cert("client@example.org")
        self.renew()

    def renew(self) -> None:
        issued = self._authority.issue_cert("127.0.0.1")
        self.files["tls_certificate"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.files["tls_key"].write_bytes(issued.private_key_pem.bytes())

    def replace_authority(self) -> None:
        self._authority = trustme.CA()
        self.roots = self._authority.cert_pem.bytes()
        self.renew()

    def channel(self, address: str, *, client_certificate: trustme.LeafCert | None = None) -> grpc.Channel:
        key = None if client_certificate is None else client_certificate.private_key_pem.bytes()
        chain = None if client_certificate is None else client_certificate.cert_chain_pems[0].bytes()
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.roots, key, chain))


@pytest.fixture()
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def tls_only(certificates: Certificates) -> dict[str, Any]:
    return {name: path for name, path in certificates.files.items() if name != "tls_client_ca"}


def test_tls_answers_clients_that_trust_its_certificate(
    certificates: Certificates, test_registry: AbstractRegistry
) -> None:
    """A client without a certificate is refused too."""
    with serving("linear", registry=test_registry, **tls_only(certificates)) as running:
        with certificates.channel(running.address) as trusting:
            assert embed(trusting) == [1, 3]
        with grpc.insecure_channel(running.address) as plain, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            embed(plain)


def test_mutual_tls_wants_a_certificate_of_the_client(
    certificates: Certificates, test_registry: AbstractRegistry
) -> None:
    """One that the authority signed, no other, none without."""
    stranger = trustme.CA().issue_cert("stranger@example.org")
    with serving("linear", registry=test_registry, **certificates.files) as running:
        with certificates.channel(running.address, client_certificate=certificates.client) as trusted:
            assert embed(trusted) == [1, 3]
        with certificates.channel(running.address) as bare, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            embed(bare)
        with (
            certificates.channel(running.address, client_certificate=stranger) as other,
            pytest.raises(grpc.RpcError, match="UNAVAILABLE"),
        ):
            embed(other)


def test_a_renewed_certificate_is_served_without_a_restart(
    certificates: Certificates, test_registry: AbstractRegistry
) -> None:
    """A new connection sees the new one."""
    with serving("linear", registry=test_registry, **tls_only(certificates)) as running:
        with certificates.channel(running.address) as before:
            embed(before)
        certificates.replace_authority()
        with certificates.channel(running.address) as after:
            assert embed(after) == [1, 3]


class BothPorts:
    """The answers of a server with certificates, by gRPC and by HTTP."""

    def __init__(self, running: RunningServer, certificates: Certificates) -> None:
        self._running = running
        self._certificates = certificates

    def answers(self, client_certificate: trustme.LeafCert | None = None) -> list[bool]:
        """Return whether a client that trusts the present authority, and shows a certificate, is served."""
        return [self._by_grpc(client_certificate), self._by_http(client_certificate)]

    def _by_grpc(self, client_certificate: trustme.LeafCert | None) -> bool:
        with self._certificates.channel(self._running.address, client_certificate=client_certificate) as channel:
            try:
                return embed(channel) == [1, 3]
            except grpc.RpcError:
                return False

    def _by_http(self, client_certificate: trustme.LeafCert | None) -> bool:
        context = ssl.create_default_context(cadata=self._certificates.roots.decode())
        if client_certificate is not None:
            client_certificate.configure_cert(context)
        address = str(self._running.server.http_address)
        connection = http.client.HTTPSConnection(address, timeout=10, context=context)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture()
def encrypted(certificates: Certificates, test_registry: AbstractRegistry) -> Iterator[BothPorts]:
    with serving("linear", registry=test_registry, http_port=0, **tls_only(certificates)) as running:
        yield BothPorts(running, certificates)


def another_key(files: dict[str, Path]) -> None:
    files["tls_key"].write_bytes(trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes())


def half_a_certificate(files: dict[str, Path]) -> None:
    os.truncate(files["tls_certificate"], 200)


def no_key(files: dict[str, Path]) -> None:
    files["tls_key"].unlink()


def an_encrypted_key(files: dict[str, Path]) -> None:
    head = f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,{'0' * 32}\n\n"
    begin, rest = files["tls_key"].read_text().split("\n", 1)
    files["tls_key"].write_text(f"{begin}\n{head}{rest}")


SPOILT = [
    pytest.param(another_key, id="a key of another certificate"),
    pytest.param(half_a_certificate, id="half a certificate"),
    pytest.param(no_key, id="no key"),
    pytest.param(an_encrypted_key, id="an encrypted key"),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_certificate_stays_until_it_is_replaced_by_a_valid_one(
    encrypted: BothPorts, certificates: Certificates, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    """Wrong files are logged once per port, not at every handshake; correct files are used afterwards."""
    spoil(certificates.files)
    assert [encrypted.answers(), encrypted.answers()] == [[True, True]] * 2
    logged = [record.message for record in caplog.records if record.name == "midrib.server._admission.tls"]
    assert logged == ["the changed TLS files cannot be used: the present certificate stays in use"] * 2
    certificates.replace_authority()
    assert encrypted.answers() == [True, True]


@pytest.mark.parametrize("spoil", SPOILT)
async def test_a_server_does_not_start_with_wrong_files(certificates: Certificates, spoil: Any) -> None:
    """It would refuse every handshake; and it asks no terminal for a pass phrase."""
    spoil(certificates.files)
    settings = Settings(**tls_only(certificates))
    with pytest.raises(OSError, match=r"TLS cannot use .*server.pem, .*server.key|TLS cannot read .*server.key \(No"):
        add_port(grpc_server(settings, None), settings, "127.0.0.1:0")


def test_a_renewed_authority_of_clients_is_taken_over(
    certificates: Certificates, test_registry: AbstractRegistry
) -> None:
    """Its clients are served from then on, and those of the old one no more."""
    other = trustme.CA()
    newcomer = other.issue_cert("client@example.org")
    with serving("linear", registry=test_registry, http_port=0, **certificates.files) as running:
        ports = BothPorts(running, certificates)
        assert [ports.answers(certificates.client), ports.answers(newcomer)] == [[True, True], [False, False]]
        other.cert_pem.write_to_path(certificates.files["tls_client_ca"])
        assert [ports.answers(certificates.client), ports.answers(newcomer)] == [[False, False], [True, True]]


def test_a_certificate_is_read_again_once_a_passing_reason_is_over(certificates: Certificates) -> None:
    """The files do not change between the reading that fails and the one that succeeds."""
    paths = certificates.files
    files = TlsFiles(paths["tls_certificate"], paths["tls_key"], None)
    certificates.replace_authority()
    readings: Iterator[OSError | str] = iter([OSError(errno.EMFILE, "Too many open files"), "renewed"])
    assert [files.renewed(lambda: raised(next(readings))) for _ in range(3)] == [None, "renewed", None]


def raised(reading: OSError | str) -> str:
    """Return a text, raise an error."""
    if isinstance(reading, OSError):
        raise reading
    return reading


@pytest.mark.parametrize(
    ("version", "reused"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, [False, True, None, False], id="TLS 1.2"),
        pytest.param(ssl.TLSVersion.TLSv1_3, [False] * 4, id="TLS 1.3"),
    ],
)
def test_a_session_does_not_outlive_the_authority_that_let_it_in(
    certificates: Certificates, test_registry: AbstractRegistry, version: ssl.TLSVersion, reused: list[bool | None]
) -> None:
    """It is resumed while the client's authority is in use; later the connection is aborted, or made in full."""
    context = ssl.create_default_context(cadata=certificates.roots.decode())
    context.minimum_version = context.maximum_version = version
    certificates.client.configure_cert(context)
    other = trustme.CA()
    with serving("linear", registry=test_registry, http_port=0, **certificates.files) as running:
        visits = Visits(str(running.server.http_address), context)
        resumed = [visits.resumed(), visits.resumed()]
        both = certificates.roots + other.cert_pem.bytes()
        certificates.files["tls_client_ca"].write_bytes(both)
        resumed.append(visits.resumed())
        resumed.append(visits.resumed())
    assert resumed == reused


def test_a_session_does_not_outlive_its_authority_if_the_clock_is_set_back(
    certificates: Certificates, test_registry: AbstractRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions have the time of the system's clock: that of an old session may lie ahead of it."""
    context = ssl.create_default_context(cadata=certificates.roots.decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    certificates.client.configure_cert(context)
    with serving("linear", registry=test_registry, http_port=0, **certificates.files) as running:
        visits = Visits(str(running.server.http_address), context)
        assert [visits.resumed(), visits.resumed()] == [False, True]
        monkeypatch.setattr(tls, "time", SimpleNamespace(time=lambda: time.time() - 3600))
        trustme.CA().cert_pem.write_to_path(certificates.files["tls_client_ca"])
        assert visits.resumed() is None


class Visits:
    """HTTPS requests of one client that resumes the session of its last one."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        host, _, port = address.partition(":")
        self._address = host, int(port)
        self._context = context
        self._session: ssl.SSLSession | None = None

    def resumed(self) -> bool | None:
        """Whether the session was resumed; None if the server refused it."""
        with (
            socket.create_connection(self._address, timeout=10) as connection,
            self._context.wrap_socket(connection, server_hostname="127.0.0.1", session=self._session) as stream,
        ):
            stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            self._session = None
            with suppress(OSError):
                if stream.recv(65536):
                    self._session, reused = stream.session, bool(stream.session_reused)
                    stream.unwrap()  # a session that ends otherwise is forgotten
                    return reused
        return None
