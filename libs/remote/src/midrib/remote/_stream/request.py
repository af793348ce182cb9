"""What a session is for, and how it goes about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import InvalidInputError

Priority: TypeAlias = Literal["interactive", "training", "bulk"]


@dataclass(frozen=True)
class StreamSpec:
    """The function that a stream's items are sent through.

    dtype: the features' element type, a DataType.  follows: the caller pinned no revision, so a call may fail at once
    if only servers of another revision answer, and is made again for that one.
    """

    name: str
    revision: str
    dtype: tensor_pb2.DataType | None = None
    normalize: bool = False
    dimensions: int | None = None
    follows: bool = False

    def opening(self, priority: Priority) -> bytes:
        """The stream's first request."""
        options = embedding_pb2.Options(normalize=self.normalize)
        if self.dtype is not None:
            options.dtype = self.dtype
        if self.dimensions is not None:
            options.dimensions = self.dimensions
        share = f"PRIORITY_{priority.upper()}"
        opening = embedding_pb2.Open(backbone=self.name, revision=self.revision, options=options, priority=share)
        return embedding_pb2.EmbedStreamRequest(open=opening).SerializeToString()


@dataclass(frozen=True)
class CallPolicy:
    """How a session goes about it.

    timeout: seconds of a call.  window: items in flight; adaptive where absent.  hedge_s: ask another server as well
    for what one has not answered within so many seconds; never where absent.  priority: the share of a busy device.
    Raises InvalidInputError for a priority that there is not.
    """

    timeout: float
    window: int | None = None
    hedge_s: float | None = None
    priority: Priority = "interactive"

    def __post_init__(self) -> None:
        if self.priority not in (known := get_args(Priority)):
            raise InvalidInputError(f"priority is {self.priority!r}, expected one of {', '.join(known)}")
