"""TLS for the gRPC and HTTP ports; changed certificate files are used without a restart."""

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

    certificate: PEM, the chain.  key: PEM.  client_ca: PEM; if not None, clients must show a certificate signed by it.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self._seen = self._failed = self._state()
        self._client_ca_since = 0.0

    def context(self) -> ssl.SSLContext:
        """Return a context of the files as they are now.

        Raises FileNotFoundError for a missing file, OSError for files that are not a certificate and its key.
        """
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
            files = ", ".join(str(file) for file in (self.certificate, self.key, self.client_ca) if file is not None)
            raise OSError(
                f"TLS cannot use {files} ({error.reason or 'unreadable'}): give PEM files, the chain and the "
                "unencrypted key that belongs to it"
            ) from error
        return context

    def renewed(self, read: Callable[[], T]) -> T | None:
        """Return what `read` makes of changed files, None if none has changed or they cannot be used.

        A failure is logged once, and the files are read again at the next handshake: the reason may pass, such as a
        process that has no file descriptor left.
        """
        now = self._state()
        if now == self._seen:
            return None
        try:
            renewed = read()
        except OSError:
            if now != self._failed:
                logger.exception("the changed TLS files cannot be used: the certificate in use stays")
            self._failed = now
            return None
        if now[-1] != self._seen[-1]:
            self._client_ca_since = time.time()
        self._seen = self._failed = now
        return renewed

    def outlives_client_ca(self, connection: ssl.SSLObject) -> bool:
        """Return whether a connection resumes a session from before the client CA in use was read.

        OpenSSL keeps sessions of TLS 1.2, and does not verify the client's certificate again when one is resumed.
        Python cannot switch that off. If the connection is aborted, OpenSSL forgets its session.
        """
        session = connection.session
        if self.client_ca is None or session is None or not connection.session_reused:
            return False
        return session.time <= self._client_ca_since

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in (self.certificate, self.key, self.client_ca) if file is not None]


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that read changed files again at the next handshake.

    Raises what `TlsFiles.context` raises.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        files.context()  # gRPC accepts any bytes here, and then fails at every handshake
        roots = files.client_ca.read_bytes() if files.client_ca is not None else None
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    return grpc.dynamic_ssl_server_credentials(
        read(),
        lambda: files.renewed(read),  # type: ignore[arg-type, return-value] # None keeps the certificate, says gRPC
        require_client_authentication=files.client_ca is not None,
    )


def renewing_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for a listening port that reads changed files again at the next handshake.

    Raises what `TlsFiles.context` raises.
    """
    current = files.context()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Use the newest context for a handshake; Python has no other hook to change a listening port's certificate."""
        nonlocal current
        current = files.renewed(files.context) or current
        connection.context = current

    outer = files.context()
    outer.sni_callback = renew
    return outer


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
