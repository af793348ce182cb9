"""Draw an embedding file that the page sends: within the quotas, in a process, one at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from aiohttp import web

from midrib.server._console import map_process
from midrib.server._console.projection import METHODS
from midrib.server._console.table import KINDS
from midrib.server._http.body import receive, require_media_type
from midrib.server._http.call import CURRENT_CALL, HttpCall
from midrib.server._settings import Settings
from midrib.wire import DeadlineExceededError, InternalError, InvalidInputError, OverloadedError

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 2**20
_MAX_RECEIVING_S = 60.0
_MEDIA_TYPE = "application/octet-stream"
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {map_process.__name__} import main; sys.exit(main(*sys.argv[2:]))"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_LOGGED_BYTES = 2000


class Maps:
    """Answers maps of embedding files."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = min(MAX_FILE_BYTES, settings.max_in_flight_bytes)
        self._drawing = asyncio.Lock()

    async def draw(self, request: web.Request) -> web.Response:
        """Answer the map of the file in the body.  The query has its `kind` and the `method`.

        Raises InvalidInputError for a file that cannot be drawn, OverloadedError while another file is drawn.
        """
        require_media_type(request, _MEDIA_TYPE)
        kind, method = request.query.get("kind", ""), request.query.get("method", "pca")
        if kind not in KINDS or method not in METHODS:
            raise InvalidInputError(
                f"kind is {kind[:20]!r} and method is {method[:20]!r}, expected one of {', '.join(KINDS)} and one of "
                f"{', '.join(METHODS)}",
                field="kind",
            )
        call = CURRENT_CALL.get()
        call.begin()
        self._check_free()
        file = await self._received(request, call)
        self._check_free()
        async with self._drawing:
            answer = await _drawn(kind, method, file)
        call.hold(len(file) + len(answer))
        return web.Response(body=answer, content_type="application/json")

    def _check_free(self) -> None:
        """Raise OverloadedError while another file is being drawn."""
        if self._drawing.locked():
            raise OverloadedError("another file is being drawn: try again shortly", retry_after=2.0)

    async def _received(self, request: web.Request, call: HttpCall) -> bytearray:
        """Return the file. Raises DeadlineExceededError if it takes more than a minute to arrive."""
        try:
            async with asyncio.timeout(_MAX_RECEIVING_S):
                return await receive(request, call, limit=self._max_bytes)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the file did not arrive within {_MAX_RECEIVING_S:g} s: send a smaller one"
            ) from error


async def _drawn(kind: str, method: str, file: bytearray) -> bytes:
    """Return the JSON of a map; the process ends with the call."""
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    arguments = [sys.executable, "-c", _PROGRAM, path, kind, method]
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **_ONE_THREAD}
    )
    try:
        answer, errors = await process.communicate(file)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                process.kill()
    return _checked(process, answer, errors)


def _checked(process: Process, answer: bytes, errors: bytes) -> bytes:
    """Return the map from the answer of the process. Raises InvalidInputError or InternalError for a failure."""
    if process.returncode == map_process.WRONG_FILE:
        raise InvalidInputError(answer.decode(), field="file")
    if process.returncode:
        logger.error(
            "a map ended with status %s: %s", process.returncode, errors[-_LOGGED_BYTES:].decode(errors="replace")
        )
        raise InternalError(
            f"the map could not be computed (status {process.returncode}): the file may need too much memory or time, "
            "send a sample; the server's log says more"
        )
    return answer
