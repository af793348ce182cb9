"""The answers of a connection that no middleware sees, because aiohttp refuses the request before."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from midrib.server._http.errors import logger, status_response

# Browsers must not guess that an answer is a page. By default, aiohttp sends its version and Python's.
HEADERS = {"X-Content-Type-Options": "nosniff", "Server": "midrib"}
# How many bytes of a body aiohttp parses in one step: in chunks of one byte, these take a few milliseconds.
_READ_BYTES = 2**14
_MESSAGES = {
    HTTPStatus.BAD_REQUEST: "could not read the request as HTTP/1.1: check its first line, its headers and its length",
    HTTPStatus.EXPECTATION_FAILED: "the header Expect is not supported, except for 100-continue: leave it out",
}


class HttpConnection(web.RequestHandler):
    """A connection. Its early refusals have the form and the headers of all others, and are counted.

    server: of the application.  refused: called with the reason of each early refusal.
    """

    __slots__ = ("_refused",)

    def __init__(self, server: web.Server, refused: Callable[[str], None], **options: Any) -> None:
        options |= {"access_log": None, "logger": logger, "auto_decompress": False, "read_bufsize": _READ_BYTES}
        super().__init__(server, **options)
        self._refused = refused

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read, and close the connection after it."""
        super().handle_error(request, status, exc, message)  # logs the error
        return self._refusal(HTTPStatus(status))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. An HTTPException has passed no middleware: its request has a wrong header `Expect`."""
        if isinstance(resp, web.HTTPException):
            resp = self._refusal(HTTPStatus(resp.status))
        return await super().finish_response(request, resp, start_time)

    def _refusal(self, status: HTTPStatus) -> web.Response:
        self._refused(status.name)
        response = status_response(status, _MESSAGES.get(status, status.phrase))
        response.headers.update(HEADERS)
        response.force_close()
        return response
