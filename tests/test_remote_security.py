"""TLS, certificates and tokens: which combinations work, and the error of each mistake."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from midrib.remote import Client, Tls, Verdict, doctor
from midrib.remote.testing import RunningServer, serving
from midrib.wire import InvalidInputError, LimitExceededError, UnauthenticatedError, UnavailableError

MLP: dict[str, Any] = {"name": "template/classification/mlp-128", "arguments": {"num_features": 8}}


class Files:
    """Certificates of one authority and of a stranger."""

    def __init__(self, folder: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.roots, self.others = folder / "roots.pem", folder / "others.pem"
        authority.cert_pem.write_to_path(str(self.roots))
        stranger.cert_pem.write_to_path(str(self.others))
        self.server, self.mine, self.theirs = (folder / name for name in ("server.pem", "mine.pem", "theirs.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self.server))
        authority.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(str(self.mine))
        stranger.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(str(self.theirs))
        self.expired, self.early = folder / "expired.pem", folder / "early.pem"
        now = datetime.now(UTC)
        expired = authority.issue_cert("127.0.0.1", not_after=now - timedelta(days=1))
        early = authority.issue_cert("127.0.0.1", not_before=now + timedelta(days=1))
        expired.private_key_and_cert_chain_pem.write_to_path(str(self.expired))
        early.private_key_and_cert_chain_pem.write_to_path(str(self.early))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def plain() -> Iterator[RunningServer]:
    with serving(MLP) as server:
        yield server


@pytest.fixture(scope="module")
def secure(files: Files) -> Iterator[RunningServer]:
    with serving(MLP, tls_certificate=files.server, tls_key=files.server) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(files: Files) -> Iterator[RunningServer]:
    with serving(MLP, tls_certificate=files.server, tls_key=files.server, tls_client_ca=files.roots) as server:
        yield server


def names(client: Client) -> list[str]:
    return [info.name for info in client.list()]


def test_tls_with_the_servers_roots(secure: RunningServer, files: Files) -> None:
    """A path of roots is enough."""
    assert names(Client(secure.address, tls=files.roots)) == [MLP["name"]]


def test_mutual_tls(mutual: RunningServer, files: Files) -> None:
    """The client shows a certificate; its key may stand in the same file."""
    assert names(Client(mutual.address, tls=Tls(files.roots, files.mine))) == [MLP["name"]]


@pytest.mark.parametrize("stranger", [False, True], ids=["no-certificate", "a-strangers"])
def test_the_error_names_a_missing_client_certificate(mutual: RunningServer, files: Files, stranger: bool) -> None:
    """With TLS 1.3 a server can only hang up: the error lists what may be amiss."""
    tls = Tls(files.roots, files.theirs if stranger else None)
    with pytest.raises(UnavailableError, match=r"a certificate of this client \(tls=Tls"):
        Client(mutual.address, tls=tls, timeout=1.5).list()


def test_the_error_of_a_plain_client_names_tls(secure: RunningServer) -> None:
    """The server hangs up at once."""
    with pytest.raises(UnavailableError, match=r"it may want TLS \(grpcs://\)"):
        Client(secure.address, timeout=1.5).list()


def test_the_error_of_a_tls_client_names_the_plain_server(plain: RunningServer, files: Files) -> None:
    """A client with TLS learns that the server has none."""
    with pytest.raises(UnavailableError, match="does not speak TLS: use grpc://"):
        Client(plain.address, tls=files.roots, timeout=1.5).list()


def test_the_error_names_an_unknown_authority(secure: RunningServer, files: Files) -> None:
    """The error says which argument names the right one."""
    with pytest.raises(UnavailableError, match="not signed by the authorities trusted here: pass tls="):
        Client(secure.address, tls=files.others, timeout=1.5).list()


@pytest.mark.parametrize("name", ["expired", "early"])
def test_the_error_names_a_certificate_out_of_its_time(files: Files, name: str) -> None:
    """Its authority is trusted, so other roots would not help."""
    certificate: Path = getattr(files, name)
    with (
        serving(MLP, tls_certificate=certificate, tls_key=certificate) as server,
        pytest.raises(UnavailableError, match="has expired or is not valid yet: renew it"),
    ):
        Client(server.address, tls=files.roots, timeout=1.5).list()


def test_the_error_names_a_client_certificate_that_has_expired(mutual: RunningServer, files: Files) -> None:
    """The server only closes the connection, so it is one of the causes."""
    with pytest.raises(UnavailableError, match="a certificate of this client .* that has not expired"):
        Client(mutual.address, tls=Tls(files.roots, files.expired), timeout=1.5).list()


def test_a_key_without_its_certificate_is_refused() -> None:
    """The error comes before any call."""
    with pytest.raises(InvalidInputError, match="without its certificate: pass certificate="):
        Tls(key="key.pem")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_missing_or_wrong_token_is_refused_at_once(tmp_path: Path, token: str | None) -> None:
    """It is not asked again: waiting would not help."""
    digest = hashlib.sha256(b"right").hexdigest()
    (tmp_path / "tokens.toml").write_text(f'[[tokens]]\nname = "me"\nsha256 = "{digest}"\nscopes = ["read", "embed"]\n')
    with serving(MLP, tokens=tmp_path / "tokens.toml") as server:
        assert names(Client(server.address, token="right")) == [MLP["name"]]
        with pytest.raises(UnauthenticatedError, match="token"):
            Client(server.address, token=token).list()


def last(server: RunningServer, tls: Tls | Path | None) -> Verdict:
    """The last verdict of the doctor."""
    return doctor(server.url(str(MLP["name"])), timeout=3.0, tls=tls)[-1]


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize("characters", [20_000, 100_000])
def test_a_token_that_is_too_long_is_refused_at_once(characters: int) -> None:
    """The server ends a connection whose headers are far too large; another connection would not help."""
    with serving(MLP) as server, Client(server.address, token="x" * characters) as client:
        with pytest.raises(LimitExceededError, match="refused the headers of a call, which hold the token"):
            names(client)
        with pytest.raises(LimitExceededError, match="max_metadata_bytes"):
            client.embed(MLP["name"], np.ones((1, 8), np.float32))


def test_the_doctor_passes_mutual_tls(mutual: RunningServer, files: Files) -> None:
    """Every check to the last."""
    verdict = last(mutual, Tls(files.roots, files.mine))
    assert (verdict.check, verdict.ok) == ("bandwidth", True)


def test_the_doctor_knows_an_untrusted_certificate(secure: RunningServer, files: Files) -> None:
    """The fix says how to trust the certificate."""
    verdict = last(secure, files.others)
    assert (verdict.check, verdict.ok, "--tls-roots" in verdict.fix) == ("tls", False, True)


def test_the_doctor_knows_a_server_without_tls(plain: RunningServer, files: Files) -> None:
    """Its verdict says so if the client uses TLS."""
    verdict = last(plain, files.roots)
    assert (verdict.check, verdict.ok, "use grpc://" in verdict.fix) == ("tls", False, True)


def test_the_doctor_knows_a_server_that_requires_tls(secure: RunningServer) -> None:
    """Its verdict says so if the client does not use TLS."""
    verdict = last(secure, None)
    assert (verdict.check, verdict.ok, "grpcs://" in verdict.fix) == ("grpc", False, True)


def test_the_doctor_knows_a_missing_client_certificate(mutual: RunningServer, files: Files) -> None:
    """With TLS 1.3 the server hangs up after the handshake."""
    verdict = last(mutual, files.roots)
    assert (verdict.check, verdict.ok, "--tls-certificate" in verdict.fix) == ("grpc", False, True)


def test_a_renewed_certificate_is_used_by_the_next_connection(tmp_path: Path) -> None:
    """A client outlives the rotation of both authorities: a training of weeks needs no restart."""
    files = Files(tmp_path)
    tls = {"tls_certificate": files.server, "tls_key": files.server, "tls_client_ca": files.roots}
    with serving(MLP, **tls) as first:
        port = int(first.address.rpartition(":")[2])
        client = Client(first.address, tls=Tls(files.roots, files.mine))
        client.embed(str(MLP["name"]), np.ones((1, 8), np.float32))
    Files(tmp_path)  # another authority, in the same files
    with serving(MLP, port=port, **tls):
        assert client.embed(str(MLP["name"]), np.ones((1, 8), np.float32)).shape == (1, 128)
        assert names(client) == [MLP["name"]]
