"""The connections of a session: those of each address, and of each machine behind an address's name."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from midrib.remote._connect.balance import by_load, count_slots
from midrib.remote._connect.diagnosis import UNREACHABLE
from midrib.remote._connect.retries import retriable
from midrib.remote._stream.call import Message
from midrib.remote._stream.connection import StreamConnection
from midrib.remote._stream.context import SessionContext
from midrib.wire import MidribError, RevisionMismatchError, UnavailableError

# Seconds between two looks for items to send to another server.
_LEAST_PAUSE_S: Final = 1e-3


class ConnectionGroup:
    """Wakes the connections when there is work, and decides when a failure ends the calls that are queued.

    On the event loop only, except `failure`.
    """

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._connections: list[StreamConnection] = []
        self._hedging: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Have every connection look for work; also those whose server refused, if none else is left."""
        if not self._connections:
            endpoint = self._context.endpoint
            self._connections = [
                self._connect(address, number=number)
                for number in range(endpoint.connections)
                for address in endpoint.addresses
            ]
        awake = [connection.wake() for connection in by_load(self._connections)]
        if not any(awake):
            for connection in self._connections:
                connection.wake(even_if_refused=True)
        if self._context.policy.hedge_s is not None and self._hedging is None:
            self._schedule_hedging(self._context.policy.hedge_s)

    async def close(self) -> None:
        """End the streams that are open now; messages without a result are queued again."""
        if self._hedging is not None:
            self._hedging.cancel()
        connections = self._connections
        self.forget()
        for connection in connections:
            await connection.close()

    def forget(self) -> None:
        """Drop the connections without closing them: in a forked child, they belong to the parent."""
        self._connections, self._hedging = [], None

    def failure(self) -> MidribError | None:
        """Return the error for a call whose time is up: that no server can be reached, or that all have a new revision.

        None if a server may yet answer. From any thread.
        """
        revision = self._new_revision()
        if revision is not None:
            return RevisionMismatchError(revision.message)
        failures = [connection.failure for connection in list(self._connections)]
        cause = next((failure for failure in failures if failure is not None), None)
        if cause is not None and all(failure is not None and failure.reason in UNREACHABLE for failure in failures):
            return UnavailableError(cause.message, reason=cause.reason)
        return None

    def last_failure(self) -> MidribError | None:
        """Return the failure of any connection, if there is one. From any thread."""
        failures = (connection.failure for connection in list(self._connections))
        return next((failure for failure in failures if failure is not None), None)

    def _new_revision(self) -> RevisionMismatchError | None:
        """Return the refusal of a server with another revision, unless another server works."""
        connections = list(self._connections)
        if any(connection.healthy for connection in connections):
            return None
        failures = (connection.failure for connection in connections)
        return next((failure for failure in failures if isinstance(failure, RevisionMismatchError)), None)

    def _connect(self, address: str, *, number: int, machine_index: int = 0) -> StreamConnection:
        return StreamConnection(
            self._context,
            address,
            self._on_change,
            number=number,
            failing=self._count_failing,
            all_slots=self._count_slots,
            machine_index=machine_index,
        )

    def _count_failing(self) -> int:
        return sum(connection.alive and connection.failure is not None for connection in self._connections)

    def _count_slots(self) -> int:
        return count_slots(self._connections, len(self._context.queue))

    def _on_change(self, connection: StreamConnection) -> None:
        self._add_machines(connection)
        results, revision = self._context.results, self._new_revision()
        if revision is not None and self._context.spec.follows:
            results.fail_queued(revision)  # the caller calls again, with the new revision
        if connection.failure is None or any(other.alive for other in self._connections):
            return
        if not retriable(connection.failure):
            results.fail_queued(connection.failure)
        elif self._context.queue.busy():  # the calls came after the last connection had given up
            self.wake()

    def _add_machines(self, connection: StreamConnection) -> None:
        """Add a connection for each machine behind a name that has several."""
        address, number = connection.address, connection.number
        siblings = (other for other in self._connections if (other.address, other.number) == (address, number))
        present = {other.machine_index for other in siblings}
        added = [
            self._connect(address, number=number, machine_index=index)
            for index in range(connection.machines)
            if index not in present
        ]
        self._connections.extend(added)
        for new in added:
            new.wake()

    def _schedule_hedging(self, hedge_s: float) -> None:
        self._hedging = asyncio.get_running_loop().call_later(max(hedge_s / 4, _LEAST_PAUSE_S), self._hedge, hedge_s)

    def _hedge(self, hedge_s: float) -> None:
        """Send messages that wait for their result since hedge_s to another server as well."""
        self._hedging = None
        moment = time.monotonic() - hedge_s
        for connection in self._connections:
            for message in connection.sent_before(moment):
                self._send_copy(connection, message)
        if self._context.queue.busy() or any(connection.busy for connection in self._connections):
            self._schedule_hedging(hedge_s)  # queued items are sent once a stream is open: later than this, perhaps

    def _send_copy(self, sender: StreamConnection, message: Message) -> None:
        if message.hedged or message.copied:
            return
        parts = [part for part in message.parts if not part.done]
        candidates = [connection for connection in self._connections if connection is not sender and connection.healthy]
        for connection in by_load(candidates) if parts else []:
            if connection.send_first(Message(parts, hedged=True)):
                message.copied = True
                return
