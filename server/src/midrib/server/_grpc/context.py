"""The context of a call, as services see it. Every front has one, so that no service knows its front."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc


class Context(Protocol):
    """The part of `grpc.aio.ServicerContext` that services and interceptors use.

    grpcio frees the call, with its headers, once its task has ended: no other task may use it later.
    """

    async def read(self) -> Any:
        """Return the next message of the client, or `grpc.aio.EOF` if it has sent all."""

    async def write(self, message: Any) -> None:
        """Send a message; returns once HTTP/2's flow control has let it go."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with a status. Always raises AbortError."""

    def peer(self) -> str:
        """Return gRPC's name of the client's address. Only while the call runs: later, grpcio ends the process."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; None if the client waits without limit."""

    def code(self) -> Any:
        """Return the code of the status; a false value if it was not set."""

    def details(self) -> str:
        """Return the text of the status."""

    def trailing_metadata(self) -> Any:
        """Return the metadata that is sent with the status."""

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None:
        """Call a function with this context once the answer is sent, or the client has left."""
