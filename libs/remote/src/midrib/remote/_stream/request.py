"""The function that a session calls, and the settings of its calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from midrib.remote._connect.arguments import checked_count, checked_seconds
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import InvalidInputError

Priority: TypeAlias = Literal["interactive", "training", "bulk"]
_MAX_WINDOW: Final = 1 << 16


@dataclass(frozen=True)
class StreamSpec:
    """The function that computes a stream's items: a backbone's revision, and options for its features.

    dtype: the features' element type.  normalize: rows of unit length.  dimensions: only the first features.
    prompt: put before each text.  prompt_name: one of the backbone's prompts instead.
    follows: the caller pinned no revision: if only servers of another revision answer, a call fails at once, so that
    it can be made again for that revision.
    """

    name: str
    revision: str
    dtype: tensor_pb2.DataType | None = None
    normalize: bool = False
    dimensions: int | None = None
    follows: bool = False
    prompt: str | None = None
    prompt_name: str | None = None

    def opening(self, priority: Priority, *, shared_memory: bool = False) -> bytes:
        """Return the first request of a stream, encoded. shared_memory: whether to ask for it."""
        options = embedding_pb2.Options(
            normalize=self.normalize,
            dtype=self.dtype,
            dimensions=self.dimensions,
            prompt=self.prompt,
            prompt_name=self.prompt_name,
        )
        share = f"PRIORITY_{priority.upper()}"
        opening = embedding_pb2.Open(backbone=self.name, revision=self.revision, options=options, priority=share)
        opening.shared_memory = shared_memory
        return embedding_pb2.EmbedStreamRequest(open=opening).SerializeToString()


@dataclass(frozen=True)
class CallPolicy:
    """The settings of a session's calls.

    timeout: seconds that a call may take.  window: items in flight; adaptive by default.  hedge_s: seconds after which
    an unanswered item is sent to a second server as well; None for never.  priority: the share of a busy device.
    shared_memory: whether rows go through shared memory: None for if the server runs on this machine, True to fail if
    that is not possible.
    Raises InvalidInputError for a value that is not among these.
    """

    timeout: float
    window: int | None = None
    hedge_s: float | None = None
    priority: Priority = "interactive"
    shared_memory: bool | None = None

    def __post_init__(self) -> None:
        if self.priority not in (priorities := get_args(Priority)):
            raise InvalidInputError(f"priority is {self.priority!r}, expected one of {', '.join(priorities)}")
        checked_seconds("timeout", self.timeout)
        if self.hedge_s is not None:
            checked_seconds("hedge_s", self.hedge_s)
        if self.window is not None:
            checked_count("window", self.window, _MAX_WINDOW)
        if self.shared_memory not in (None, True, False):
            raise InvalidInputError(f"shared_memory is {self.shared_memory!r}, expected True, False or None")
