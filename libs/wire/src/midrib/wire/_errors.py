"""The errors of Midrib, each with a status code and a reason.

Programs branch on the reason. It travels as `google.rpc.ErrorInfo.reason`.
"""

from __future__ import annotations

from typing import ClassVar

from google.rpc import code_pb2


class MidribError(Exception):
    """The base class of all errors that a call may raise.

    message: a sentence with the received value, the expected one and the remedy.
    reason: an UPPER_SNAKE word that names the case; by default that of the class.
    retry_after: seconds after which the same call may succeed; None if waiting does not help.
    field: the place in the request that is wrong, such as "input.tensor.shape".
    """

    code: ClassVar[int] = code_pb2.UNKNOWN
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retry_after = retry_after
        self.field = field

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[MidribError], tuple[str], dict[str, object]]:
        return type(self), (self.message,), dict(self.__dict__)


class InvalidInputError(MidribError, ValueError):
    """The input is invalid: the caller must change it."""

    code = code_pb2.INVALID_ARGUMENT
    default_reason = "INVALID_INPUT"


class InputKindError(MidribError, TypeError):
    """The backbone takes another kind of input (a tensor, images, texts, audio)."""

    code = code_pb2.FAILED_PRECONDITION
    default_reason = "WRONG_INPUT_KIND"


class BackboneNotFoundError(MidribError, KeyError):
    """No backbone of this name is served; the message names the nearest ones."""

    code = code_pb2.NOT_FOUND
    default_reason = "BACKBONE_NOT_FOUND"


class RevisionMismatchError(MidribError, ValueError):
    """The served backbone is not the revision that the caller pinned."""

    code = code_pb2.FAILED_PRECONDITION
    default_reason = "REVISION_MISMATCH"


class StreamProtocolError(MidribError, ValueError):
    """The messages of a stream came in an order that the protocol does not allow."""

    code = code_pb2.FAILED_PRECONDITION
    default_reason = "ITEM_BEFORE_OPEN"


class DuplicateItemError(MidribError, ValueError):
    """An item of this id is still in flight on the stream."""

    code = code_pb2.ALREADY_EXISTS
    default_reason = "DUPLICATE_ITEM"


class LimitExceededError(MidribError, ValueError):
    """The call exceeds a limit, and waiting does not help: send less."""

    code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = "LIMIT_EXCEEDED"


class OverloadedError(MidribError, ConnectionError):
    """The server is at capacity; retry_after says when to call again."""

    code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"


class UnavailableError(MidribError, ConnectionError):
    """No server answers at the address, or it is shutting down; the same call may be repeated."""

    code = code_pb2.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class BackboneLoadingError(UnavailableError):
    """The backbone is not ready yet."""

    default_reason = "BACKBONE_LOADING"


class DeadlineExceededError(MidribError, TimeoutError):
    """The caller's deadline passed before the result."""

    code = code_pb2.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class UnauthenticatedError(MidribError, PermissionError):
    """The server requires a token, or does not know this one."""

    code = code_pb2.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDeniedError(MidribError, PermissionError):
    """The token lacks the scope that this call needs."""

    code = code_pb2.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class UnsupportedError(MidribError, NotImplementedError):
    """The other side does not offer this call."""

    code = code_pb2.UNIMPLEMENTED
    default_reason = "UNSUPPORTED"


class InternalError(MidribError, RuntimeError):
    """A fault of the server; its log explains the error id of the message."""

    code = code_pb2.INTERNAL
    default_reason = "INTERNAL"
