"""Renewed certificate files: taken over when they can be read, and not before."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from midrib.remote._connect.address import Tls
from midrib.remote._connect.certificates import Certificates, CertificateStore, read_certificates


@pytest.fixture()
def tls(tmp_path: Path) -> Tls:
    tls = Tls(tmp_path / "roots.pem", tmp_path / "chain.pem", tmp_path / "key.pem")
    renew(tls)
    return tls


def renew(tls: Tls) -> None:
    """Write a new authority, certificate and key."""
    authority = trustme.CA()
    certificate = authority.issue_cert("me@example.org")
    authority.cert_pem.write_to_path(str(tls.roots))
    certificate.cert_chain_pems[0].write_to_path(str(tls.certificate))
    certificate.private_key_pem.write_to_path(str(tls.key))


def test_renewed_files_are_read_again(tls: Tls) -> None:
    """Files that have not changed are not read again."""
    store = CertificateStore()
    before = store.current(tls)
    assert store.current(tls) is before
    renew(tls)
    assert store.current(tls) == read_certificates(tls) != before


def test_a_half_renewed_pair_waits_for_the_other_half(tls: Tls) -> None:
    """A key without its certificate would end every connection."""
    store = CertificateStore()
    before, key = store.current(tls), Path(str(tls.key)).read_bytes()
    renew(tls)
    renewed = Path(str(tls.key)).read_bytes()
    Path(str(tls.key)).write_bytes(key)
    assert store.current(tls) == before
    Path(str(tls.key)).write_bytes(renewed)
    assert store.current(tls) == read_certificates(tls) != before


def test_a_reading_that_fails_for_a_passing_reason_is_repeated(tls: Tls, caplog: pytest.LogCaptureFixture) -> None:
    """Here: the process has no free descriptor."""
    store = CertificateStore()
    before = store.current(tls)
    renew(tls)
    with no_free_descriptor():
        kept = store.current(tls)
    assert kept == before
    assert "cannot be read yet" in caplog.text
    assert store.current(tls) == read_certificates(tls) != before


def test_files_that_were_never_readable_are_an_error(tmp_path: Path) -> None:
    """There is nothing to resume."""
    with pytest.raises(FileNotFoundError, match=r"roots\.pem"):
        CertificateStore().current(Tls(tmp_path / "roots.pem"))


def test_the_systems_authorities_are_in_no_file() -> None:
    """gRPC knows where they are."""
    assert CertificateStore().current(Tls()) == Certificates(None, None, None)


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Let no further file be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        lowest = stack.enter_context(open("/dev/null")).fileno()  # noqa: PTH123 - its descriptor is the point
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
