"""Turns errors into gRPC statuses with details, which never show the text of an unforeseen exception."""

from __future__ import annotations

import copy
from typing import NoReturn

import grpc

from midrib.server._errors import public_error
from midrib.server._grpc.context import Context
from midrib.server._observability.accounting import CURRENT_ACCOUNTING
from midrib.wire import MidribError, error_to_status

# A status is sent twice in the headers: as grpc-message, percent-encoded, and in the details. It may quote the client's
# own values, and a header that is too large is lost with the status. Clients accept 8 KiB of headers by default.
_LONGEST_MESSAGE = 500
_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: Context, error: Exception) -> NoReturn:
    """End the call with the status of an error. An unforeseen error goes to the log, and the status has its id.

    The error loses its traceback: gRPC keeps it until the next garbage collection, and a flood of refused calls would
    fill the memory with their requests.
    """
    public = _cut(public_error(error, "the call failed"))
    _drop_tracebacks(error)
    count_refusal(public.reason)
    status = error_to_status(public)
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(_CODES[status.code], status.message, (details,))


def count_refusal(reason: str) -> None:
    """Count a call that ended in an error."""
    if (accounting := CURRENT_ACCOUNTING.get()) is not None:
        accounting.refused("grpc", reason)


def _drop_tracebacks(error: BaseException | None) -> None:
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__context__


def _cut(error: MidribError) -> MidribError:
    """Return the error with a message that fits into the headers."""
    if len(error.message) <= _LONGEST_MESSAGE:
        return error
    middle = _LONGEST_MESSAGE // 2
    cut = copy.copy(error)
    cut.message = f"{error.message[:middle]} ... {error.message[-middle:]}"
    return cut
