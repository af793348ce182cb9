"""What a caller may see of an unforeseen error."""

from __future__ import annotations

import logging
import uuid

from midrib.wire import InternalError, MidribError

logger = logging.getLogger(__name__)


def public_error(error: Exception, what: str) -> MidribError:
    """The error that a caller may see in place of an unforeseen one, which goes to the log under the same id."""
    if isinstance(error, MidribError):
        return error
    error_id = uuid.uuid4().hex[:12]
    logger.error("error %s: %s", error_id, what, exc_info=error, extra={"error_id": error_id})
    return InternalError(f"{what}: the server's log explains error {error_id}")
