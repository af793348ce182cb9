"""The metrics of a running server, read over HTTP."""

from __future__ import annotations

import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import TypeAlias
from urllib.error import HTTPError, URLError

from midrib.remote._command.options import Access

# The labels of a sample, as sorted (name, value) pairs.
Labels: TypeAlias = tuple[tuple[str, str], ...]

_REFUSED = (401, 403)
_START = "start the server with --http-port and give that port"
_SCHEME = re.compile(r"([a-z]+)://", re.IGNORECASE)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Make a redirect an HTTPError: urllib would send the token to the other address too."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


@dataclass(frozen=True)
class Scrape:
    """The metrics of a server at one time.  seconds: on a monotonic clock.  samples: keyed by name and labels."""

    seconds: float
    samples: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return the samples of a metric as (labels, value)."""
        return [(dict(labels), value) for labels, value in self.samples.get(name, {}).items()]


class MetricsReader:
    """Read /metrics of one server.

    address: that of its HTTP port; without a scheme, https if TLS files are given and http otherwise.
    Raises ValueError for an address of another protocol or a TLS file without a certificate, FileNotFoundError for one
    that does not exist.
    """

    def __init__(self, address: str, access: Access) -> None:
        self._access = access
        access.check_files()
        self._url = f"{_http_url(address, secure=access.roots is not None or access.certificate is not None)}/metrics"

    @property
    def url(self) -> str:
        """The URL that is read."""
        return self._url

    def read(self) -> Scrape:
        """Return the present metrics. Raises ConnectionError, with the remedy, if no server answers with them."""
        seconds = time.monotonic()
        try:
            return Scrape(seconds, parse(self._text()))
        except ValueError as error:  # also of bytes that are not text
            raise self._failed(f"{error!s:.80}", _START) from error

    def _text(self) -> str:
        """Return the body of a page. Raises ConnectionError if the server does not answer it."""
        token = self._access.token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - http(s) by construction
        try:
            handlers = (urllib.request.HTTPSHandler(context=self._context()), _NoRedirects())
            with urllib.request.build_opener(*handlers).open(request, timeout=self._access.timeout) as reply:
                return str(reply.read().decode())
        except HTTPException as error:
            raise ConnectionError(
                f"{self._url} is not answered in HTTP: give the HTTP port of the server, not its gRPC port, and write "
                "https:// if it has a certificate"
            ) from error
        except HTTPError as error:
            with error:
                raise self._failed(f"HTTP {error.code}", _advice_for_status(error)) from error
        except OSError as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise self._failed(getattr(reason, "strerror", None) or str(reason), _advice(reason)) from error

    def _failed(self, problem: str, advice: str) -> ConnectionError:
        return ConnectionError(f"no metrics at {self._url} ({problem}): {advice}")

    def _context(self) -> ssl.SSLContext | None:
        """Return the TLS settings, None for http. Raises ssl.SSLError for files that are not PEM."""
        if not self._url.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self._access.roots)
        if self._access.certificate is not None:
            context.load_cert_chain(self._access.certificate)
        return context


def parse(text: str) -> dict[str, dict[Labels, float]]:
    """Return metrics in Prometheus' text form as {name: {labels: value}}.

    Raises ImportError, with the install line, if prometheus_client is missing.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`midrib status` needs prometheus-client ({error}): pip install 'midrib-remote[cli]'"
        ) from error
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def _http_url(address: str, *, secure: bool) -> str:
    """Return the URL of an HTTP port. Raises ValueError for another address."""
    scheme = match.group(1).lower() if (match := _SCHEME.match(address)) else ""
    if scheme not in ("", "http", "https"):
        raise ValueError(
            f"{address} is not an HTTP address: give host:port of the server's HTTP port, as in --http-port"
        )
    rest = (address[len(scheme) + 3 :] if scheme else address).rstrip("/").removesuffix("/metrics")
    return f"{scheme or ('https' if secure else 'http')}://{rest}"


def _advice_for_status(error: HTTPError) -> str:
    if error.code in _REFUSED:
        return "give a token that may read them, with --token"
    if location := error.headers.get("Location"):
        return f"it redirects to {location}: give the address of the server itself"
    return _START


def _advice(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "check the host"
    if isinstance(reason, ssl.SSLError):
        return "check --tls-roots and --tls-certificate, and whether this port uses TLS"
    return "the server is busy or does not answer: raise --timeout" if isinstance(reason, TimeoutError) else _START
