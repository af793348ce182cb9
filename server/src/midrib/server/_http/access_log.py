"""One line of the log for each HTTP request, if the settings want it."""

from __future__ import annotations

import logging

from aiohttp import web

from midrib.server._http.call import HttpCall

logger = logging.getLogger(__name__)
# The command logs warnings and worse; nothing is logged here unless access_log is set.
logger.setLevel(logging.INFO)

_LONGEST_PATH = 200


def log_access(request: web.Request, response: web.StreamResponse, call: HttpCall, seconds: float) -> None:
    """Log a request that was answered: a line, and in JSON its parts as fields.

    Neither the query nor a header is logged: they may hold a token.
    """
    path = request.path[:_LONGEST_PATH]
    tenant = call.caller.tenant
    fields = {
        "method": request.method,
        "path": path,
        "status": response.status,
        "reason": call.refusal,
        "seconds": round(seconds, 6),
        "bytes": response.body_length if response.prepared else 0,
        "token": "" if tenant is None else tenant.name,
        "peer": request.remote or "",
    }
    logger.info("%s %r %d %.1f ms", request.method, path, response.status, seconds * 1e3, extra=fields)
