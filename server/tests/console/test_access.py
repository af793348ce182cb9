"""Who may open the console: its files are public, its calls need the token and the scope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from midrib.registry import Registry, TensorInput
from midrib.server._console.backbones import registered
from midrib.server._console.routes import console_routes
from midrib.server.testing import RunningServer, serving
from server.tests.console.calls import ask

Tokens = tuple[dict[str, str], Path]


@pytest.fixture(scope="module")
def plain_server(test_registry: Registry) -> Iterator[RunningServer]:
    """A server with an HTTP port and with the default of every other setting."""
    with serving("words", registry=test_registry, http_port=0) as running:
        yield running


@pytest.mark.parametrize("path", ["/console/", "/console/files/app.js", "/console/api/session"])
def test_the_console_is_off_by_default(plain_server: RunningServer, path: str) -> None:
    """Nothing is served that the operator did not ask for."""
    assert ask(plain_server, path).status == 404


@pytest.mark.parametrize("path", ["/console/", "/console/files/app.js", "/console/files/vendor/uplot/uPlot.esm.js"])
def test_a_file_needs_no_token_and_carries_the_policy(guarded_server: RunningServer, path: str) -> None:
    """The page must load before it can ask for a token; no other code may run in it."""
    reply = ask(guarded_server, path)
    assert reply.status == 200
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_the_address_without_a_slash_leads_to_the_page(console_server: RunningServer) -> None:
    """The redirect is relative, so that it also works behind a proxy that adds a prefix."""
    reply = ask(console_server, "/console")
    assert (reply.status, reply.headers["Location"]) == (308, "console/")


@pytest.mark.parametrize(
    "name", ["missing.js", "../routes.py", "%2e%2e/routes.py", "vendor/README.md", "vendor/uplot/LICENSE", ""]
)
def test_only_the_files_of_the_page_are_served(console_server: RunningServer, name: str) -> None:
    """They are read once, by name: no path leads elsewhere."""
    assert ask(console_server, f"/console/files/{name}").status == 404


CALLS = [
    pytest.param("/console/api/session", None, "read", id="session"),
    pytest.param("/console/api/registered", None, "read", id="registered"),
    pytest.param("/console/api/load", {"name": "words", "dry_run": True}, "admin", id="load"),
    pytest.param("/console/api/unload", {"name": "linear"}, "admin", id="unload"),
    pytest.param("/console/api/map?kind=npy", b"", "embed", id="map"),
]


@pytest.mark.parametrize(("path", "body", "scope"), CALLS)
def test_a_call_needs_a_token_with_its_scope(
    guarded_server: RunningServer, tokens: Tokens, path: str, body: object, scope: str
) -> None:
    """Refused with 401 without a token, with 403 without the scope; with the scope, it is answered."""
    other_scopes = {"read", "embed", "admin"} - {scope}
    assert ask(guarded_server, path, body=body).status == 401
    assert {ask(guarded_server, path, body=body, token=tokens[0][other]).status for other in other_scopes} == {403}
    assert ask(guarded_server, path, body=body, token=tokens[0][scope]).status in (200, 400, 404)


def test_the_stream_of_events_needs_a_token(guarded_server: RunningServer) -> None:
    """The check is that of any other call."""
    assert ask(guarded_server, "/console/api/events").status == 401


def test_without_the_setting_admin_loading_is_refused(test_registry: Registry) -> None:
    """The console allows nothing that gRPC refuses."""
    with serving("words", registry=test_registry, http_port=0, console=True) as running:
        reply = ask(running, "/console/api/load", body={"name": "linear"})
        session = ask(running, "/console/api/session").json
    assert (reply.status, reply.json["error"]["code"]) == (403, "PERMISSION_DENIED")
    assert session["may_change"] is False


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[2001:db8::1]:80"])
def test_without_tokens_a_foreign_host_is_refused(console_server: RunningServer, host: str) -> None:
    """A web page can make its name mean 127.0.0.1; its scripts must not load backbones then."""
    reply = ask(console_server, "/console/api/unload", body={"name": "words"}, headers={"Host": host})
    assert reply.status == 403
    assert "open it by one of those, or set tokens" in reply.json["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]"])
def test_without_tokens_this_machine_is_accepted(console_server: RunningServer, host: str) -> None:
    """Each name of this machine is accepted."""
    assert ask(console_server, "/console/api/session", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param({"name": "words", "arguments": {"x": 1}}, "has no argument 'x'", id="unknown argument"),
        pytest.param({"name": "linear", "arguments": {"checkpoint": "/x"}}, "looks like a path", id="path"),
        pytest.param({"name": "linear", "arguments": {"seed": 2**70}}, "expected an integer of 64 bits", id="large"),
        pytest.param({"name": ""}, "name", id="no name"),
        pytest.param({"name": "words", "dryrun": True}, "dryrun", id="misspelt"),
        pytest.param([], "the body", id="not an object"),
    ],
)
def test_a_load_is_checked_as_over_grpc(console_server: RunningServer, body: object, message: str) -> None:
    """Clients choose neither files nor arguments that the registration does not open."""
    reply = ask(console_server, "/console/api/load", body=body)
    assert reply.status == 400
    assert message in reply.json["error"]["message"]


def test_a_long_body_is_refused(console_server: RunningServer) -> None:
    """A name and a few arguments are short."""
    assert ask(console_server, "/console/api/load", body={"name": "x" * 100_000}).status == 413


def test_a_web_page_cannot_send_a_form(console_server: RunningServer) -> None:
    """Browsers send texts to any address without asking the user; JSON they send only if the server allows it."""
    reply = ask(console_server, "/console/api/load", body={"name": "linear"}, headers={"Content-Type": "text/plain"})
    assert (reply.status, reply.json["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_registered_names_carry_the_arguments_that_clients_may_set(console_server: RunningServer) -> None:
    """With their defaults; no argument that names a file."""
    listed = ask(console_server, "/console/api/registered").json["registered"]
    arguments = {entry["name"]: entry["arguments"] for entry in listed}
    assert arguments["test/embedding/linear"] == {"num_features": 3, "seed": 0}


def test_the_description_of_the_port_has_every_call_of_the_console(console_server: RunningServer) -> None:
    """Its files and the redirect to its page are not for programs."""
    document = ask(console_server, "/openapi.json").json
    served = {(route.method, route.path) for route in console_routes(console_server.server.embedder)}
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    undescribed = {("GET", "/console"), ("GET", "/console/files/{name:.+}")}
    assert served - undescribed == {(method, path) for method, path in described if path.startswith("/console")}
    assert {"LoadBody", "UnloadBody"} <= set(document["components"]["schemas"])
    assert ask(console_server, "/docs").body.count(b"/console/api/") == 6


def test_a_server_without_the_console_does_not_describe_it(plain_server: RunningServer) -> None:
    """Its calls do not exist."""
    assert b"console" not in ask(plain_server, "/openapi.json").body


def test_an_argument_without_a_default_is_listed_too() -> None:
    """Otherwise the page could not load a backbone that needs it. None means the default; files are left out."""
    registry = Registry("with a required argument")

    @registry(name="wide", namespace="test/embedding", input=TensorInput((2,)))
    def load_wide(width: int, labels: list[str], checkpoint: str, scale: float = 0.5) -> Any:
        raise NotImplementedError

    assert registered(registry) == [{"name": "test/embedding/wide", "arguments": {"width": None, "scale": 0.5}}]
