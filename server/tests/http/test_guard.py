"""The tokens, scopes, quotas and TLS of gRPC hold over HTTP: attacks on a real server."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from midrib.registry import AbstractRegistry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving

PATHS = [
    *["/v1/embeddings", "/v1/models", "/v1/models/words", "/similarity", "/metrics", "/openapi.json"],
    *["/v2", "/v2/models/words", "/v2/models/words/infer", "/nothing"],
]
BODY = json.dumps({"model": "words", "input": "good morning"})
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tokens of three tenants, and the file that knows them."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    reader, reader_entry = new_token("reader", [Scope.READ])
    trainer, trainer_entry = new_token("trainer", [Scope.READ, Scope.EMBED])
    full, full_entry = new_token("full", [Scope.EMBED])
    path.write_text(reader_entry + trainer_entry + full_entry + "max_in_flight_bytes = 1\n")
    return {"path": str(path), "reader": reader, "trainer": trainer, "full": full}


@pytest.fixture(scope="module")
def guarded(secrets: dict[str, str], test_registry: AbstractRegistry) -> Iterator[RunningServer]:
    with serving("words", registry=test_registry, tokens=secrets["path"], http_port=0) as running:
        yield running


def ask(
    connection: http.client.HTTPConnection, path: str, token: str | None = None, *, kind: str = "Bearer"
) -> tuple[int, Any]:
    """Return the status and the code of the error, if any; embeddings are posted, other paths are read."""
    headers = JSON if token is None else {**JSON, "Authorization": f"{kind} {token}"}
    method, body = ("POST", BODY) if path.endswith(("/embeddings", "/similarity", "/infer")) else ("GET", None)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text)["error"]["code"] if response.status >= 400 else None


def dial(running: RunningServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(str(running.server.http_address), timeout=20)


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in PATHS])
def test_no_path_is_answered_without_a_token(guarded: RunningServer, path: str) -> None:
    """Not even a path that does not exist is answered."""
    assert ask(dial(guarded), path) == (401, "UNAUTHENTICATED")


def test_the_page_of_paths_is_public(guarded: RunningServer) -> None:
    """A browser sends no token; the page names no backbone and no version."""
    connection = dial(guarded)
    connection.request("GET", "/docs")
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert (answer.status, "POST /v1/embeddings" in page, "words" in page) == (200, True, False)


def test_health_is_public_if_the_settings_say_so(guarded: RunningServer) -> None:
    """Load balancers have no token."""
    assert [ask(dial(guarded), path) for path in ("/healthz", "/readyz")] == [(200, None)] * 2


@pytest.mark.parametrize(
    ("who", "path", "answer"),
    [
        pytest.param("trainer", "/v1/embeddings", (200, None), id="embed"),
        pytest.param("trainer", "/v1/models", (200, None), id="read"),
        pytest.param("reader", "/v1/embeddings", (403, "PERMISSION_DENIED"), id="a reader embeds"),
        pytest.param("reader", "/similarity", (403, "PERMISSION_DENIED"), id="a reader compares"),
        pytest.param("reader", "/v2/models/words/infer", (403, "PERMISSION_DENIED"), id="a reader infers"),
        pytest.param("full", "/metrics", (403, "PERMISSION_DENIED"), id="an embedder reads"),
        pytest.param("path", "/v1/models", (401, "UNAUTHENTICATED"), id="an unknown token"),
    ],
)
def test_a_token_allows_its_scopes(
    guarded: RunningServer, secrets: dict[str, str], who: str, path: str, answer: Any
) -> None:
    """Paths that embed need `embed`, the others `read`."""
    assert ask(dial(guarded), path, secrets[who]) == answer


def test_another_scheme_is_not_a_token(guarded: RunningServer, secrets: dict[str, str]) -> None:
    """Bearer, as OpenAI's clients send it."""
    assert ask(dial(guarded), "/v1/models", secrets["trainer"], kind="Basic") == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param([b"Bearer \xff\xfe"], id="not text"),
        pytest.param(["Bearer \u00e4".encode()], id="not ASCII"),
        pytest.param([b"Bearer\tTOKEN"], id="a tab"),
        pytest.param([b"Bearer other", b"Bearer TOKEN"], id="two, the second right"),
        pytest.param([b"Bearer TOKEN", b"Bearer other"], id="two, the first right"),
    ],
)
def test_a_strange_header_is_not_a_token(guarded: RunningServer, secrets: dict[str, str], shown: list[bytes]) -> None:
    """401, as for any wrong token, never 500."""
    connection = dial(guarded)
    connection.putrequest("GET", "/v1/models")
    for value in shown:
        connection.putheader("Authorization", value.replace(b"TOKEN", secrets["trainer"].encode()))
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_one_request_does_not_vouch_for_the_next(guarded: RunningServer, secrets: dict[str, str]) -> None:
    """Each request on a connection needs its token."""
    connection = dial(guarded)
    for token, status in ((secrets["trainer"], 200), (None, 401)):
        connection.request("GET", "/v1/models", headers={} if token is None else {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_a_tenants_quota_holds_over_http(guarded: RunningServer, secrets: dict[str, str]) -> None:
    """The requests of one tenant leave room for those of another."""
    tokens = guarded.server.tokens
    assert tokens is not None
    tenant = tokens.tenant([f"Bearer {secrets['full']}"], Scope.EMBED)
    tenant.in_flight_bytes.acquire_nowait(1)
    assert ask(dial(guarded), "/v1/embeddings", secrets["full"]) == (429, "OVERLOADED")
    assert ask(dial(guarded), "/v1/embeddings", secrets["trainer"]) == (200, None)
    tenant.in_flight_bytes.release(1)


class Certified:
    """A server with a certificate that an authority of the test signed."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key, self.roots = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.roots)
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def client(self, *, shows: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.roots)
        if shows:
            self.authority.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture()
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path)


def over_tls(running: RunningServer, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(str(running.server.http_address), timeout=20, context=context)


@pytest.fixture()
def encrypted(certified: Certified, test_registry: AbstractRegistry) -> Iterator[RunningServer]:
    files: dict[str, Any] = {"tls_certificate": certified.certificate, "tls_key": certified.key}
    with serving("words", registry=test_registry, http_port=0, **files) as running:
        yield running


def test_with_a_certificate_http_is_https(encrypted: RunningServer, certified: Certified) -> None:
    """HTTP without TLS is not answered."""
    assert ask(over_tls(encrypted, certified.client()), "/v1/embeddings") == (200, None)
    with pytest.raises((http.client.HTTPException, OSError), match=r"closed|reset|HTTP"):
        ask(dial(encrypted), "/healthz")


def test_a_renewed_certificate_is_taken_over(encrypted: RunningServer, certified: Certified) -> None:
    """The next connection uses it, without a restart."""
    shown = []
    for _ in range(2):
        connection = over_tls(encrypted, certified.client())
        connection.connect()
        shown.append(connection.sock.getpeercert(binary_form=True))
        connection.close()
        certified.renew()
        os.utime(certified.certificate, ns=(0, 0))  # a change, however coarse the clock of the file system is
    assert shown[0] != shown[1]


def test_a_client_without_a_certificate_is_refused_under_mutual_tls(
    certified: Certified, test_registry: AbstractRegistry
) -> None:
    """One with a certificate is served."""
    files: dict[str, Any] = {
        "tls_certificate": certified.certificate,
        "tls_key": certified.key,
        "tls_client_ca": certified.roots,
    }
    with serving("words", registry=test_registry, http_port=0, **files) as running:
        assert ask(over_tls(running, certified.client(shows=True)), "/v1/embeddings") == (200, None)
        with pytest.raises(OSError, match=r"(?i)certificate|reset|closed"):
            ask(over_tls(running, certified.client()), "/healthz")
