"""The HTTP responses for errors, with the reasons of every other protocol: OpenAI's shape, or Connect's for its calls.

Source of Connect's: https://connectrpc.com/docs/protocol#error-end-stream
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.rpc import code_pb2

from midrib.registry import nearest
from midrib.server._errors import public_error
from midrib.server._http.call import CURRENT_CALL
from midrib.wire import LimitExceededError, MidribError, UnauthenticatedError, error_to_status

logger = logging.getLogger(__name__)
# aiohttp would log requests that it cannot parse, and quote them: they may hold a token, and could fill the log.
logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUSES: dict[int, int] = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}
_MAX_SHOWN = 100
_CONNECT_PATHS = "/midrib.v1."
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an error with its status and a JSON body. An unforeseen error is logged, and answered by an id."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        # Raised by aiohttp: an unknown path, another method, a body that is too large.
        fields = {"message": _message(request, error), "param": None, "code": error.reason.upper().replace(" ", "_")}
        CURRENT_CALL.get().refusal = str(fields["code"])
        return _response(error.status, fields, {name: error.headers[name] for name in error.headers if name == "Allow"})
    except Exception as error:  # noqa: BLE001 - the outer boundary: everything becomes a status
        public = public_error(error, "the call failed")
        return connect_error(public) if request.path.startswith(_CONNECT_PATHS) else error_response(public)


def status_response(status: HTTPStatus, message: str) -> web.Response:
    """Return the response for a status that only HTTP has."""
    return _response(status.value, {"message": message, "param": None, "code": status.name}, {})


def _message(request: web.Request, error: web.HTTPException) -> str:
    """Return the sentence of an error that aiohttp raised, with the paths or methods that exist."""
    path = request.path[:_MAX_SHOWN]
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{path} does not take {error.method}: use {' or '.join(sorted(error.allowed_methods))}"
    if not isinstance(error, web.HTTPNotFound):
        return error.text or error.reason
    resources = sorted({resource.canonical for resource in request.app.router.resources()})
    near = nearest(path, resources)
    advice = f"did you mean {near[0]}? " if near else ""
    return f"nothing is at {path}: {advice}GET /docs shows every path"


def connect_error(error: MidribError) -> web.Response:
    """Return the response for an error of a Connect call: the code, the message and the details of gRPC's status."""
    CURRENT_CALL.get().refusal = error.reason
    status = error_to_status(error)
    fields = {
        "code": code_pb2.Code.Name(status.code).lower().replace("cancelled", "canceled"),
        "message": status.message,
        "details": [
            {"type": detail.TypeName(), "value": base64.b64encode(detail.value).decode().rstrip("=")}
            for detail in status.details
        ],
    }
    return web.json_response(fields, status=_STATUSES.get(error.code, 500), headers=_headers(error))


def error_response(error: MidribError) -> web.Response:
    """Return the response for an error."""
    CURRENT_CALL.get().refusal = error.reason
    # Waiting does not help against such a limit, and after a 429 clients try again.
    status = 413 if isinstance(error, LimitExceededError) else _STATUSES.get(error.code, 500)
    return _response(status, {"message": error.message, "param": error.field, "code": error.reason}, _headers(error))


def _headers(error: MidribError) -> dict[str, str]:
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _response(status: int, fields: dict[str, Any], headers: dict[str, str]) -> web.Response:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return web.json_response({"error": {**fields, "type": kind}}, status=status, headers=headers)
