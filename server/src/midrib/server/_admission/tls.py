"""TLS for gRPC and HTTP ports. Changed certificate files are read again without a restart."""

from __future__ import annotations

import logging
import ssl
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
        self._last_state = self._state()

    def context(self) -> ssl.SSLContext:
        """Read the files and return a context.

        Raises FileNotFoundError for a missing file, OSError for an invalid certificate or a key of another one.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # An empty password: without one, an encrypted key would make OpenSSL ask the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            files = ", ".join(str(file) for file in (self.certificate, self.key, self.client_ca) if file is not None)
            raise OSError(
                f"TLS cannot use {files} ({error.reason or 'unreadable'}): give PEM files, the chain and the "
                "unencrypted key that belongs to it"
            ) from error
        return context

    def renewed(self, read: Callable[[], T]) -> T | None:
        """Return the result of `read` if a file has changed, otherwise None; invalid files are logged once."""
        state = self._state()
        if state == self._last_state:
            return None
        self._last_state = state
        try:
            return read()
        except OSError:
            logger.exception("the changed TLS files cannot be taken over: the certificate in use stays")
            return None

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in (self.certificate, self.key, self.client_ca) if file is not None]


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that read the files again at the next handshake after one of them has changed.

    Raises what `TlsFiles.context` raises.
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


def renewing_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for a listening port that reads changed files again.

    Raises what `TlsFiles.context` raises.
    """
    current = files.context()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Set the certificate of a connection; Python calls this at each handshake."""
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
