"""What a call asks for, and the sessions that answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from numpy.typing import ArrayLike

from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.unary import UnaryCalls
from midrib.remote._items.media import ImageLike
from midrib.remote._items.rows import Rows, TensorRows, any_rows, audio_rows, image_rows, text_rows
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.session import Session, session_for
from midrib.wire import InvalidInputError, code_from_dtype

# How far a stream reads ahead of its consumer.
AHEAD_ITEMS: Final = 64
AHEAD_BYTES: Final = 64 << 20
# How many changes of revision one call follows: each server of a rolling upgrade may show another.
FOLLOWED: Final = 3

Kind: TypeAlias = Literal["tensor", "images", "texts", "audio"]


class EmbedOptions(NamedTuple):
    """How the features shall be. dtype: numpy's name.  revision: None follows the server."""

    dtype: str | None = None
    normalize: bool = False
    dimensions: int | None = None
    revision: str | None = None

    def wanted(self, info: BackboneInfo) -> StreamSpec:
        """The function that answers: of the pinned revision, or of the one described."""
        code = None if self.dtype is None else code_from_dtype(self.dtype)
        revision, follows = self.revision or info.revision, self.revision is None
        return StreamSpec(info.name, revision, code, self.normalize, self.dimensions, follows)


class SessionCache:
    """The backbones that a client has met, and its sessions with them."""

    def __init__(self, servers: UnaryCalls, policy: CallPolicy) -> None:
        self._servers = servers
        self._policy = policy
        self._infos: dict[str, BackboneInfo] = {}
        self._sessions: dict[tuple[str, EmbedOptions], Session] = {}

    def learn(self, name: str, info: BackboneInfo) -> None:
        """Know a backbone, under the name that it is asked by."""
        self._infos[name] = info

    def forget(self, name: str) -> None:
        """Describe it afresh: the server has another revision now."""
        self._infos.pop(name, None)
        self._servers.prefer_next()
        self._sessions = {key: session for key, session in list(self._sessions.items()) if key[0] != name}

    def get(self, name: str, asked: EmbedOptions) -> Session | None:
        """The session for a backbone; None until that is known."""
        session = self._sessions.get((name, asked))
        if session is None and (info := self._infos.get(name)) is not None:
            session = session_for(self._servers.endpoint, asked.wanted(info), info, self._policy)
            self._sessions[name, asked] = session
        return session

    def close(self) -> None:
        """End all streams; later calls open them again."""
        for session in list(self._sessions.values()):
            session.close()


def rows_from(
    x: ArrayLike | None,
    images: Sequence[ImageLike] | None,
    texts: Sequence[str] | None,
    audio: Sequence[ArrayLike] | None,
    rate: int | None,
) -> Rows:
    """The rows of the one input that was given. Raises InvalidInputError for none, or more than one."""
    if x is not None and images is None and texts is None and audio is None:
        return any_rows(x)
    inputs = {"x": x, "images": images, "texts": texts, "audio": audio}
    given = [kind for kind, value in inputs.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "nothing"
        raise InvalidInputError(f"embed got {got}, expected one input: pass x, images=, texts= or audio=")
    if images is not None:
        return image_rows(images)
    if texts is not None:
        return text_rows(texts)
    return audio_rows(audio or (), rate)


def batch_rows(batch: Any, kind: Kind, rate: int | None) -> Rows:
    """The rows of one batch of a stream, copied: its maker may fill the same memory again."""
    if kind == "tensor":
        rows = any_rows(batch)
        if not isinstance(rows, TensorRows):
            return rows
        return rows.copied() if rows.array is batch or rows.array.base is not None else rows
    if kind == "images":
        return image_rows(batch)
    return text_rows(batch) if kind == "texts" else audio_rows(batch, rate)
