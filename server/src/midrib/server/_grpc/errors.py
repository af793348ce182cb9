"""Errors leave the server here: as a status with details, never as an exception's text."""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import grpc

from midrib.server._errors import public_error
from midrib.server._observability.accounting import CURRENT_ACCOUNTING
from midrib.wire import MidribError, error_to_status

Context = grpc.aio.ServicerContext[Any, Any]

# A status travels in headers, twice over (grpc-message, percent-encoded, and the details): what a client sent may be
# quoted there, and too large a header loses the status with it. Clients take 8 KiB of headers by default.
_LONGEST_MESSAGE = 500
_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: Context, error: Exception) -> NoReturn:
    """End the call with the status of an error; one that is not ours goes to the log under an id."""
    known = _cut(public_error(error, "the call failed"))
    if (accounting := CURRENT_ACCOUNTING.get()) is not None:
        accounting.refused("grpc", known.reason)
    status = error_to_status(known)
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(_CODES[status.code], status.message, (details,))


def _cut(error: MidribError) -> MidribError:
    """The error, with a message that fits into the headers."""
    if len(error.message) <= _LONGEST_MESSAGE:
        return error
    middle = _LONGEST_MESSAGE // 2
    cut = copy.copy(error)
    cut.message = f"{error.message[:middle]} ... {error.message[-middle:]}"
    return cut
