"""TLS for the gRPC ports; changed certificate files are taken over without a restart."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

logger = logging.getLogger(__name__)


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials that read the files again whenever one of them has changed, at the next handshake.

    certificate: PEM, the chain.  key: PEM.  client_ca: PEM; where given, clients must show a certificate that it
    signed. Raises FileNotFoundError for a missing file.
    """
    files = [file for file in (certificate, key, client_ca) if file is not None]
    seen = _changes(files)

    def read() -> grpc.ServerCertificateConfiguration:
        roots = client_ca.read_bytes() if client_ca is not None else None
        pair = (key.read_bytes(), certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        try:
            now = _changes(files)
            if now == seen:
                return None
            configuration = read()
        except OSError:
            logger.exception("the TLS files cannot be read: the certificate in use stays")
            return None
        seen = now
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        read(),
        renewed,  # type: ignore[arg-type] # None keeps the certificate, says gRPC's documentation
        require_client_authentication=client_ca is not None,
    )


def _changes(files: list[Path]) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_size) for status in (file.stat() for file in files)]
