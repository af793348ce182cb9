"""The backbones that a client has seen, and its sessions with them."""

from __future__ import annotations

from typing import Any, Final, Self

from midrib.registry._unknown import check_keywords
from midrib.remote._clients.options import FeatureOptions
from midrib.remote._connect.address import TlsLike, endpoint_from
from midrib.remote._connect.backbone_calls import BackboneCalls
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._stream.request import CallPolicy, Priority
from midrib.remote._stream.session import CallSession, session_for

# How far a stream reads ahead of its consumer.
AHEAD_ITEMS: Final = 64
AHEAD_BYTES: Final = 64 << 20
# The changes of revision that one call follows. During a rolling upgrade two revisions are behind one address, and a
# proxy may send the description and the stream of a call to different ones: up to half of the attempts fail.
MAX_REVISION_CHANGES: Final = 30


class SessionCache:
    """A client's sessions, by the name that its caller uses and the options of the features."""

    def __init__(self, servers: BackboneCalls, policy: CallPolicy) -> None:
        self._servers = servers
        self._policy = policy
        self._infos: dict[str, BackboneInfo] = {}
        self._sessions: dict[tuple[str, FeatureOptions], CallSession] = {}

    def learn(self, name: str, info: BackboneInfo) -> None:
        """Remember a backbone, under the name that the caller uses."""
        self._infos[name] = info

    def forget(self, name: str) -> None:
        """Forget a backbone, because the server has another revision of it now."""
        self._infos.pop(name, None)
        self._servers.prefer_next()
        self._sessions = {key: session for key, session in list(self._sessions.items()) if key[0] != name}

    def get(self, name: str, options: FeatureOptions) -> CallSession | None:
        """Return the session for a backbone; None if the backbone has not been described yet."""
        session = self._sessions.get((name, options))
        if session is None and (info := self._infos.get(name)) is not None:
            session = session_for(self._servers.endpoint, options.spec(info), info, self._policy)
            self._sessions[name, options] = session
        return session

    def close(self) -> None:
        """End all streams; later calls open them again."""
        for session in list(self._sessions.values()):
            session.close()


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
