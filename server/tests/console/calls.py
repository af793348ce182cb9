"""One HTTP request to the console, without a browser."""

from __future__ import annotations

import http.client
import json
from typing import Any

from midrib.server.testing import RunningServer
from server.tests.reply import Reply, reply_of


def ask(
    running: RunningServer,
    path: str,
    *,
    body: Any = None,
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Return the answer to a GET, or to a POST of a body: bytes for the map, else JSON."""
    connection = http.client.HTTPConnection(str(running.server.http_address), timeout=60)
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": kind, **({} if token is None else {"Authorization": f"Bearer {token}"}), **(headers or {})}
    connection.request("GET" if body is None else "POST", path, data, sent)
    return reply_of(connection)
