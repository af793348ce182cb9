"""The certificates of TLS connections, read from their files again whenever these change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import NamedTuple, TypeAlias

from midrib.remote._connect.address import Tls

_log = logging.getLogger("midrib.remote")
_Signature: TypeAlias = tuple[tuple[int, int, int], ...]


class Certificates(NamedTuple):
    """PEM files' bytes. roots: None for the system's.  key, chain: this client's; None without mutual TLS."""

    roots: bytes | None
    key: bytes | None
    chain: bytes | None


class CertificateStore:
    """The last readable certificates of each `Tls`."""

    def __init__(self) -> None:
        self._current: dict[Tls, tuple[_Signature, Certificates]] = {}

    def current(self, tls: Tls) -> Certificates:
        """Return the certificates that the files hold now, or held when they could be read last.

        Renewed files that cannot be read yet (half written, no free descriptor) are read again at the next call.
        Raises OSError if they have never been readable.
        """
        entry = self._current.get(tls)
        try:
            signature = _signature(tls)
            if entry is not None and entry[0] == signature:
                return entry[1]
            certificates = read_certificates(tls)
        except OSError as error:  # ssl.SSLError is one too
            if entry is None:
                raise
            _log.warning("keep the certificates read before: the renewed ones cannot be read yet: %s", error)
            return entry[1]
        self._current[tls] = signature, certificates
        return certificates


def read_certificates(tls: Tls) -> Certificates:
    """Return the bytes of the files. Raises OSError if one cannot be read, or if key and certificate do not match."""
    roots = None if tls.roots is None else Path(tls.roots).read_bytes()
    if tls.certificate is None:
        return Certificates(roots, None, None)
    key_file = tls.key or tls.certificate
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.certificate, key_file)
    return Certificates(roots, Path(key_file).read_bytes(), Path(tls.certificate).read_bytes())


def _signature(tls: Tls) -> _Signature:
    """Return a value that changes when a file is replaced or written to."""
    states = (Path(path).stat() for path in (tls.roots, tls.certificate, tls.key) if path is not None)
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)
