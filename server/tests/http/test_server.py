"""Models, health, readiness and metrics over HTTP, and the ends of connections."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from midrib.registry import Registry
from midrib.server import Server, Settings
from midrib.server._http.connections import LastRequests, send
from midrib.server._http.routes import Routes
from midrib.server._http.server import HttpServer
from midrib.server._settings import BackboneSettings
from midrib.server.testing import RunningServer, serving

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def get(address: str | None, path: str, *, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(str(address), timeout=20)
    connection.request(method, path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_many_connections_wait_while_the_server_is_busy(media_server: RunningServer, address: str) -> None:
    """As on the gRPC port: a burst of clients is not refused while the event loop does something else."""
    host, _, port = address.rpartition(":")
    is_over = threading.Event()

    async def busy() -> None:
        is_over.wait(60)

    blocked = media_server.start(busy())
    with ExitStack() as stack:
        stack.callback(is_over.set)
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
    blocked.result(60)
    assert get(address, "/healthz")[0] == 200


def test_models_are_listed_in_openais_form(address: str) -> None:
    """Ordered by name; a name with slashes is found by its path."""
    status, text = get(address, "/v1/models")
    listed = json.loads(text)
    assert (status, listed["object"]) == (200, "list")
    names = ["image/embedding/picture", "test/embedding/linear", "text/embedding/words"]
    assert [model["id"] for model in listed["data"]] == names
    assert json.loads(get(address, f"/v1/models/{names[0]}")[1]) == listed["data"][0]
    assert json.loads(get(address, "/v1/models/image%2Fembedding%2Fpicture")[1]) == listed["data"][0]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/v1/models/nothing", 404, "BACKBONE_NOT_FOUND", id="no such model"),
        pytest.param("GET", "/v1/chat/completions", 404, "NOT_FOUND", id="no such path"),
        pytest.param("GET", "/v1/embeddings", 405, "METHOD_NOT_ALLOWED", id="another method"),
    ],
)
def test_an_unknown_name_or_path_is_refused_in_openais_shape(
    address: str, method: str, path: str, status: int, code: str
) -> None:
    """Refusals of the router have this shape too."""
    received, text = get(address, path, method=method)
    assert (received, json.loads(text)["error"]["code"]) == (status, code)


def test_metrics_are_prometheus_text(address: str) -> None:
    """Only of this server, not of others in the process."""
    status, text = get(address, "/metrics")
    assert (status, 'midrib_backbone{backbone="text/embedding/words"' in text) == (200, True)


async def test_readiness_follows_loading_and_stopping(test_registry: Registry) -> None:
    """A server is ready from the end of the last load until it stops."""
    settings = Settings(port=0, http_port=0, threads=1, backbones=(BackboneSettings(name="linear"),))
    server = Server(settings, registry=test_registry)
    await server.start()
    probe: Any = Routes(server.embedder)
    states = [(await probe.readyz(None)).status]
    await server.load()
    states.append((await probe.readyz(None)).status)
    await server.stop(grace_s=5)
    stopped = await probe.readyz(None)
    assert ([*states, stopped.status], stopped.text) == (
        [503, 200, 503],
        "not ready\ntest/embedding/linear: draining\n",
    )


def test_health_is_answered_over_http(address: str) -> None:
    """For programs that start and restart servers."""
    assert [get(address, path) for path in ("/healthz", "/readyz")] == [(200, "ok\n"), (200, "ready\n")]


def test_without_a_port_there_is_no_http(server: RunningServer) -> None:
    """HTTP is off by default."""
    assert server.server.http_address is None


async def test_a_taken_port_is_named(media_server: RunningServer) -> None:
    """The error says what to do."""
    running = media_server.server._http
    assert running is not None
    with pytest.raises(ConnectionError, match=f"{running.port} for HTTP: is another server there"):
        await HttpServer(media_server.server.embedder, None).start("127.0.0.1", running.port)


def test_without_aiohttp_the_error_has_the_install_line(
    test_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says to install the extra, or to leave out the port."""
    monkeypatch.setitem(sys.modules, "midrib.server._http.server", None)
    with (
        pytest.raises(ImportError, match=r"pip install 'midrib-server\[http\]', or leave http_port out"),
        serving("linear", registry=test_registry, http_port=0),
    ):
        pass


async def test_an_unread_answer_does_not_delay_the_end_of_the_server(test_registry: Registry) -> None:
    """Its connection is aborted when the grace is over; max_unread_s is a minute."""
    wide = BackboneSettings(name="words", arguments={"num_features": 1024})
    server = Server(Settings(port=0, http_port=0, threads=1, backbones=(wide,)), registry=test_registry)
    await server.start()
    await server.load()
    host, _, port = str(server.http_address).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps({"model": "words", "input": ["x"] * 1024}).encode()
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(server.stop(grace_s=0.1), 20)
    assert server.embedder.in_flight.held == 0
    writer.close()


def test_a_slow_body_is_given_up(address: str) -> None:
    """The time to send the body counts in the limit of the caller."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(HEAD + b"X-Request-Timeout: 0.05\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 504")


@pytest.fixture()
def impatient(test_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server that gives a connection 50 ms between requests."""
    monkeypatch.setattr("midrib.server._http.server._SILENT_S", 0.05)
    with serving("linear", registry=test_registry, http_port=0) as running:
        yield running


@pytest.mark.parametrize("sent", [pytest.param(b"", id="nothing"), pytest.param(HEAD, id="half of a head, forever")])
def test_a_silent_connection_is_closed(impatient: RunningServer, sent: bytes) -> None:
    """A connection without a request is not kept."""
    host, _, port = str(impatient.server.http_address).partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        assert connection.recv(65536) == b""


class Opened:
    """Stands for a connection."""


class LeftByItsClient(asyncio.Transport):
    """A TLS transport of uvloop in the moment between the end of its connection and `connection_lost`."""

    def is_closing(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        raise AttributeError("'NoneType' object has no attribute 'pause_writing'")  # uvloop logs it


async def test_nothing_is_sent_to_a_client_that_has_just_left() -> None:
    """uvloop would log an error with a traceback for each such client."""
    request = make_mocked_request("GET", "/healthz", transport=LeftByItsClient())
    response = web.Response(text="alive")
    await send(request, response, max_unread_s=20)
    assert not response.prepared


def test_a_closed_connection_is_not_kept() -> None:
    """A client may open one for each request, thousands within the time after which silence is noticed."""
    connections = LastRequests(10)
    connection = Opened()
    with connections.busy(connection):
        pass
    closed = weakref.ref(connection)
    del connection
    assert closed() is None


def test_a_connection_is_silent_between_its_requests_only() -> None:
    """Before the first and after each; a slow request is not silence."""
    now = [0.0]
    connections = LastRequests(10, clock=lambda: now[0])
    first, second = Opened(), Opened()
    silent = [connections.silent([first])]
    now[0] = 11
    silent.append(connections.silent([first, second]))
    with connections.busy(second):
        now[0] = 100
        silent.append(connections.silent([second]))
    silent.append(connections.silent([second]))
    now[0] = 111
    silent.append(connections.silent([second]))
    assert silent == [[], [first], [], [], [second]]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/docs", "/<script>"])
def test_an_answer_is_not_taken_for_a_page_and_names_no_version(address: str, path: str) -> None:
    """An error quotes the path, which a link of another page chooses."""
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", path)
    headers = connection.getresponse().headers
    connection.close()
    assert (headers["X-Content-Type-Options"], headers["Server"]) == ("nosniff", "midrib")
