"""The answer to one HTTP request, on a connection that is closed afterwards."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """The answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def reply_of(connection: http.client.HTTPConnection) -> Reply:
    """Return the answer to the request that was sent, and close the connection."""
    response = connection.getresponse()
    reply = Reply(response.status, response.headers, response.read())
    connection.close()
    return reply
