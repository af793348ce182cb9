"""The backbones that a client has seen, and its sessions with them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final, Self

from midrib.registry._unknown import check_keywords
from midrib.remote._clients.options import FeatureOptions
from midrib.remote._connect.address import TlsLike, endpoint_from
from midrib.remote._connect.arguments import checked_text
from midrib.remote._connect.backbone_calls import BackboneCalls
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.retries import wait_s
from midrib.remote._items.rows import Rows
from midrib.remote._stream.call import StreamedCall
from midrib.remote._stream.request import CallPolicy, Priority
from midrib.remote._stream.session import CallSession, session_for

# How far a stream reads ahead of its consumer.
AHEAD_ITEMS: Final = 64
AHEAD_BYTES: Final = 64 << 20
# The changes of revision that one call follows. During a rolling upgrade two revisions are behind one address, and a
# proxy may send the description and the stream of a call to different ones: up to half of the attempts fail.
_MAX_REVISION_CHANGES: Final = 30


class SessionCache:
    """A client's sessions, by the name that its caller uses and the options of the features."""

    def __init__(self, servers: BackboneCalls, policy: CallPolicy) -> None:
        self._servers = servers
        self._policy = policy
        self._infos: dict[str, BackboneInfo] = {}
        self._sessions: dict[tuple[str, FeatureOptions], CallSession] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the sessions, which belong to this process. It contains the token."""
        return {**self.__dict__, "_sessions": {}}

    def learn(self, name: str, info: BackboneInfo) -> None:
        """Remember a backbone, under the name that the caller uses."""
        self._infos[name] = info

    def forget(self, name: str) -> None:
        """Forget a backbone, because the server has another revision of it now."""
        self._infos.pop(name, None)
        self._servers.prefer_next()
        self._sessions = {key: session for key, session in list(self._sessions.items()) if key[0] != name}

    def get(self, name: str, options: FeatureOptions) -> CallSession | None:
        """Return the session for a backbone; None if the backbone has not been described yet.

        Raises InvalidInputError for a name that is not a string.
        """
        if not isinstance(name, str):
            checked_text("name", name)
        session = self._sessions.get((name, options))
        if session is None and (info := self._infos.get(name)) is not None:
            session = session_for(self._servers.endpoint, options.spec(info), info, self._policy)
            self._sessions[name, options] = session
        return session

    def close(self) -> None:
        """End all streams; later calls open them again."""
        for session in list(self._sessions.values()):
            session.close()


class RevisionChanges:
    """The changes of revision that one call follows.

    follows: whether the caller pinned no revision.
    timeout: seconds after the first change in which further ones are followed.
    """

    def __init__(self, *, follows: bool, timeout: float) -> None:
        self._changes = 0
        self._limit = _MAX_REVISION_CHANGES if follows else 0
        self._timeout = timeout
        self._end_s = 0.0

    def next_pause_s(self) -> float | None:
        """Count a change, and return the seconds to wait before the next attempt; None if the call must fail.

        The first is followed at once. Later ones are probably of servers whose revisions alternate.
        """
        self._changes += 1
        if self._changes == 1:
            pause_s, self._end_s = 0.0, time.monotonic() + self._timeout
        else:
            pause_s = wait_s(None, self._changes - 1)
        is_over = self._changes > self._limit or time.monotonic() + pause_s > self._end_s
        return None if is_over else pause_s

    def end(self) -> None:
        """Follow no further change, because the caller has a result."""
        self._limit = 0


class ReadAhead:
    """The calls of a stream that are under way, oldest first.

    session: that of the revision that all its results have.  changes: the revisions that the stream follows.
    """

    def __init__(self, session: CallSession, changes: RevisionChanges) -> None:
        self.session = session
        self.changes = changes
        self.calls: deque[StreamedCall] = deque()
        self._bytes = 0

    @property
    def ready(self) -> bool:
        """Whether the oldest call is done, or to be waited for before another one is made."""
        calls = self.calls
        return bool(calls) and (len(calls) >= AHEAD_ITEMS or self._bytes > AHEAD_BYTES or calls[0].done)

    def submit(self, rows: Rows) -> None:
        """Call with the rows of the next batch."""
        self.calls.append(self.session.submit(rows))
        self._bytes += rows.nbytes

    def pop_answered(self) -> None:
        """Forget the oldest call, whose result came. From now on, all others have its revision."""
        self._bytes -= self.calls.popleft().rows.nbytes
        self.changes.end()

    def call_again(self, session: CallSession) -> None:
        """Make all calls again, with the revision of another session."""
        self.leave()
        self.session = session
        self.calls = deque(session.submit(call.rows) for call in self.calls)

    def leave(self) -> None:
        """Abandon all calls."""
        for call in self.calls:
            call.leave()


class ClientBase:
    """The arguments that `Client` and `AsyncClient` share."""

    def __new__(cls, *_arguments: Any, **keywords: Any) -> Self:
        """Raise TypeError, with the nearest name, for a keyword that the constructor does not take."""
        check_keywords(cls, keywords)
        return super().__new__(cls)

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        token: str | None = None,
        tls: TlsLike = None,
        hedge_s: float | None = None,
        priority: Priority = "interactive",
        shared_memory: bool | None = None,
    ) -> None:
        self._servers = BackboneCalls(endpoint_from(address, token=token, tls=tls), timeout)
        policy = CallPolicy(timeout, hedge_s=hedge_s, priority=priority, shared_memory=shared_memory)
        self._sessions = SessionCache(self._servers, policy)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._servers.endpoint)!r})"

    def _changes(self, options: FeatureOptions) -> RevisionChanges:
        return RevisionChanges(follows=options.revision is None, timeout=self._servers.timeout)
