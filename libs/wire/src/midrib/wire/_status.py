"""Convert errors to google.rpc.Status, with ErrorInfo, RetryInfo and BadRequest details, and back.

Source: https://google.aip.dev/193 (the error model) and google/rpc/error_details.proto.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from midrib.wire import _errors
from midrib.wire._errors import MidribError

_DOMAIN: Final = "midrib"
_LONGEST_DELAY_S: Final = 366 * 24 * 3600

_FAMILY = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, MidribError)]
_BY_REASON = {kind.default_reason: kind for kind in _FAMILY}
# For statuses with a code only, which Midrib did not make, such as those of a proxy.
_BY_CODE: dict[int, type[MidribError]] = {
    code_pb2.INVALID_ARGUMENT: _errors.InvalidInputError,
    code_pb2.OUT_OF_RANGE: _errors.InvalidInputError,
    code_pb2.NOT_FOUND: _errors.BackboneNotFoundError,
    code_pb2.ALREADY_EXISTS: _errors.DuplicateItemError,
    code_pb2.FAILED_PRECONDITION: _errors.InputKindError,
    code_pb2.RESOURCE_EXHAUSTED: _errors.LimitExceededError,
    code_pb2.UNAVAILABLE: _errors.UnavailableError,
    code_pb2.DEADLINE_EXCEEDED: _errors.DeadlineExceededError,
    code_pb2.UNAUTHENTICATED: _errors.UnauthenticatedError,
    code_pb2.PERMISSION_DENIED: _errors.PermissionDeniedError,
    code_pb2.UNIMPLEMENTED: _errors.UnsupportedError,
    code_pb2.INTERNAL: _errors.InternalError,
}


def error_to_status(error: MidribError) -> status_pb2.Status:
    """Return the status of an error: its code, its message and its details."""
    status = status_pb2.Status(code=error.code, message=error.message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN)]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after))
        details.append(retry)
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def status_to_error(status: status_pb2.Status) -> MidribError:
    """Return the error of a status, by its reason, or by its code if the reason is unknown.

    A detail that cannot be read is left out.
    """
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        for message in (info, retry, request):
            with suppress(DecodeError):
                detail.Unpack(message)  # does nothing for a detail of another type
    kind = _BY_REASON.get(info.reason) if info.domain == _DOMAIN else None
    if kind is None or kind.code != status.code:
        kind = _BY_CODE.get(status.code, MidribError)
    return kind(
        status.message or f"the server gave no reason, only the code {status.code}",
        reason=info.reason or None,
        retry_after=_retry_after_s(retry),
        field=request.field_violations[0].field if request.field_violations else None,
    )


def _retry_after_s(retry: error_details_pb2.RetryInfo) -> float | None:
    """Return the seconds of a detail, at least 0; None if it has none, or more than a year."""
    delay = retry.retry_delay
    if not retry.HasField("retry_delay") or delay.seconds > _LONGEST_DELAY_S:
        return None
    return max(0.0, delay.seconds + delay.nanos * 1e-9)
