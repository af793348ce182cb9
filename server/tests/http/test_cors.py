"""Pages of other origins: only those that the settings name may call the HTTP port."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving

APP = "https://app.example.org"
ORIGINS = (APP, "https://evil.example.org", "null")


@pytest.fixture(scope="module")
def cors_server(test_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with tokens that pages of one origin may call."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(new_token("team-a", [Scope.EMBED])[1])
    with serving("words", registry=test_registry, http_port=0, cors_origins=(APP,), tokens=path) as running:
        yield running


def headers(running: RunningServer, method: str, path: str, sent: dict[str, str]) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer that concern other origins."""
    connection = http.client.HTTPConnection(str(running.server.http_address), timeout=20)
    connection.request(method, path, headers=sent)
    response = connection.getresponse()
    response.read()
    connection.close()
    received = {name.lower(): value for name, value in response.getheaders()}
    return response.status, {name: value for name, value in received.items() if name.startswith("access-control")}


def preflight(origin: str) -> dict[str, str]:
    """The request of a browser before it sends JSON and a token."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }


def test_a_page_of_the_origin_may_ask_without_a_token(cors_server: RunningServer) -> None:
    """A browser sends no token with its question."""
    status, answer = headers(cors_server, "OPTIONS", "/v1/embeddings", preflight(APP))
    assert (status, answer["access-control-allow-origin"]) == (204, APP)
    assert "Authorization" in answer["access-control-allow-headers"]


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in ("/healthz", "/v1/models", "/nothing")])
def test_a_page_of_the_origin_may_read_each_answer(cors_server: RunningServer, path: str) -> None:
    """Errors too: otherwise the page could not show them."""
    _, answer = headers(cors_server, "GET", path, {"Origin": APP})
    assert answer["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", [pytest.param(o, id=o) for o in ("https://evil.example.org", "null", f"{APP}.evil")])
def test_pages_of_other_origins_may_not(cors_server: RunningServer, origin: str) -> None:
    """The answer says nothing about other origins, so a browser keeps it from the page."""
    assert headers(cors_server, "OPTIONS", "/v1/embeddings", preflight(origin)) == (401, {})
    assert headers(cors_server, "GET", "/healthz", {"Origin": origin}) == (200, {})


@pytest.mark.parametrize(
    "sent", [pytest.param({}, id="no origin"), *(pytest.param({"Origin": o}, id=o) for o in ORIGINS)]
)
def test_caches_keep_the_answers_of_origins_apart(cors_server: RunningServer, sent: dict[str, str]) -> None:
    """Also the answers that no page may read: a cache would give them to a page that may."""
    connection = http.client.HTTPConnection(str(cors_server.server.http_address), timeout=20)
    connection.request("GET", "/healthz", headers=sent)
    assert connection.getresponse().headers["Vary"] == "Origin"
    connection.close()


def test_without_the_setting_pages_of_other_origins_are_refused(fresh_server: RunningServer) -> None:
    """`cors_origins` is empty by default."""
    assert headers(fresh_server, "OPTIONS", "/v1/embeddings", preflight(APP)) == (405, {})
