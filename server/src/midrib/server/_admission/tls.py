"""TLS for gRPC and HTTP ports. Changed certificate files are read again without a restart."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TlsFiles:
    """The certificate files of a port, and whether they have changed.

    certificate: PEM, the chain.  key: PEM.
    client_ca: PEM; if it is set, clients must show a certificate that it signed.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self._last_state = self._failed_state = self._state()
        self._client_ca_since = self._newest_session_s = 0.0

    def context(self) -> ssl.SSLContext:
        """Read the files and return a context.

        Raises OSError for a file that cannot be read, an invalid certificate, or a key of another one.
        """
        for file in self._files():
            try:
                file.open("rb").close()  # OpenSSL's error does not name the file
            except OSError as error:
                raise OSError(f"TLS cannot read {file} ({error.strerror}): check the path and your rights") from error
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # An empty password: without one, an encrypted key would make OpenSSL ask the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
                # A client that resumes a session by a ticket shows no certificate: see `outlives_client_ca`.
                context.options |= ssl.OP_NO_TICKET
                context.num_tickets = 0
        except ssl.SSLError as error:
            files = ", ".join(map(str, self._files()))
            raise OSError(
                f"TLS cannot use {files} ({error.reason or 'unreadable'}): give PEM files, the chain and the "
                "unencrypted key that belongs to it"
            ) from error
        return context

    def renewed(self, read: Callable[[], T]) -> T | None:
        """Return the result of `read` if a file has changed, otherwise None.

        A failure is logged once, and the files are read again at the next handshake: the reason may pass, such as a
        process that has no file descriptor left.
        """
        state = self._state()
        if state == self._last_state:
            return None
        try:
            renewed = read()
        except OSError:
            if state != self._failed_state:
                logger.exception("the changed TLS files cannot be used: the present certificate stays in use")
            self._failed_state = state
            return None
        if state[-1] != self._last_state[-1]:
            # Sessions have the times of the system's clock, which may have been set back.
            self._client_ca_since = max(time.time(), self._newest_session_s)
        self._last_state = self._failed_state = state
        return renewed

    def outlives_client_ca(self, connection: ssl.SSLObject) -> bool:
        """Return whether a connection resumes a session from before the client CA in use was taken over.

        OpenSSL keeps sessions of TLS 1.2, and does not verify the client's certificate again when one is resumed.
        Python cannot switch that off. If the connection is aborted, OpenSSL forgets its session.
        """
        session = connection.session
        if self.client_ca is None or session is None:
            return False
        if connection.session_reused:
            return session.time <= self._client_ca_since
        self._newest_session_s = max(self._newest_session_s, session.time)
        return False

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files()]

    def _files(self) -> list[Path]:
        return [file for file in (self.certificate, self.key, self.client_ca) if file is not None]


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that read the files again at the next handshake after one of them has changed.

    Raises the errors of `TlsFiles.context`.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        files.context()  # gRPC accepts any bytes, and would fail only at the handshakes
        roots = files.client_ca.read_bytes() if files.client_ca is not None else None
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    return grpc.dynamic_ssl_server_credentials(
        read(),
        lambda: files.renewed(read),  # type: ignore[arg-type, return-value] # None keeps the certificate, says gRPC
        require_client_authentication=files.client_ca is not None,
    )


def renewing_context(files: TlsFiles, *, protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return a context for a listening port that reads changed files again.

    protocols: offered by ALPN.
    Raises the errors of `TlsFiles.context`.
    """

    def read() -> ssl.SSLContext:
        context = files.context()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    current = read()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Set the certificate of a connection; Python calls this at each handshake."""
        nonlocal current
        current = files.renewed(read) or current
        connection.context = current

    outer = read()
    outer.sni_callback = renew
    return outer


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
