"""The callers that an ingress admits: the same as the replicas behind it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from midrib.server._admission.tokens import AccessTokens
from midrib.server._grpc.guard import scope_of

_HEALTH: Final = "/grpc.health.v1.Health/"

logger = logging.getLogger(__name__)


class IngressAccess:
    """Checks the token of each call before its first message is read.

    tokens: the file; None if callers need none.  public_health: whether health is answered without a token.
    Raises FileNotFoundError, or ValueError for an invalid file.
    """

    def __init__(self, tokens: Path | None, *, public_health: bool) -> None:
        self._tokens = None if tokens is None else AccessTokens(tokens)
        self._public_health = public_health

    def check(self, method: str, headers: Iterable[tuple[str, str | bytes]]) -> None:
        """Raise UnauthenticatedError without a known token, PermissionDeniedError without the scope of the method.

        method: its path, "/package.Service/Method".  headers: those of the call.
        """
        if self._tokens is None or (self._public_health and method.startswith(_HEALTH)):
            return
        self._tokens.tenant([str(value) for key, value in headers if key == "authorization"], scope_of(method))

    def reload(self) -> None:
        """Read the tokens again; if the file is wrong, log it and keep the present tokens."""
        try:
            if self._tokens is not None:
                self._tokens.reload()
        except (OSError, ValueError):
            logger.exception("the token file cannot be read: the present tokens stay in force")
