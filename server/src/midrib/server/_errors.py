"""Unforeseen errors: hidden from callers, and kept from ending the process."""

from __future__ import annotations

import logging
import traceback
import uuid

from midrib.backbones import WeightsError
from midrib.registry import (
    AmbiguousKeyError,
    ContractError,
    LoaderArgumentError,
    MissingLibraryError,
    UnknownKeyError,
)
from midrib.server._descriptors import NO_DESCRIPTOR
from midrib.wire import InternalError, MidribError, OverloadedError

logger = logging.getLogger(__name__)

_DESCRIPTOR_S = 1.0
_SELF_EXPLANATORY = (
    AmbiguousKeyError,
    ContractError,
    LoaderArgumentError,
    MissingLibraryError,
    UnknownKeyError,
    WeightsError,
)


def public_error(error: Exception, what: str) -> MidribError:
    """Return an error that a caller may see: the error itself, or an InternalError in place of an unforeseen one.

    A process without a free file descriptor is an OverloadedError, because it passes: `_descriptors` logs it once.
    what: the failure in words, for the caller and the log. The log has the unforeseen error under the same id.
    """
    if isinstance(error, MidribError):
        return error
    if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR:
        text = f"{what}: the server has no file descriptor left: try again, and raise the limit of its process"
        return OverloadedError(text, retry_after=_DESCRIPTOR_S)
    error_id = uuid.uuid4().hex[:12]
    text = text_of(error)
    logger.error("error %s: %s: %s", error_id, what, text, exc_info=traced(error), extra={"error_id": error_id})
    return InternalError(f"{what}: the server's log explains error {error_id}")


def traced(error: Exception) -> Exception | None:
    """Return the error if the log should show its traceback; None for ours of loading, whose sentences suffice."""
    return None if isinstance(error, _SELF_EXPLANATORY) else error


def ordinary_error(error: BaseException, action: str) -> Exception:
    """Return an error of a user's code as an Exception: SystemExit and KeyboardInterrupt would end the server.

    action: the action of that code, for the message.
    """
    if isinstance(error, Exception):
        return error
    ordinary = RuntimeError(f"{action} raised {type(error).__name__}({text_of(error)})")
    ordinary.__cause__ = error
    return ordinary


def text_of(error: BaseException) -> str:
    """Return the message of an error; a sentence in its place if the error's class cannot make it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the code of a user may raise anything
        return f"the message of this {type(error).__name__} cannot be made"


def release_frames(error: BaseException) -> None:
    """Clear the local variables of the frames that an error, its causes and its contexts have passed.

    A frame often refers to the error itself. Such a cycle keeps the objects of the frames, gigabytes of weights for
    example, until the next garbage collection.
    """
    released: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is not None and current not in released:
            released.append(current)
            traceback.clear_frames(current.__traceback__)
            waiting += [current.__cause__, current.__context__]
