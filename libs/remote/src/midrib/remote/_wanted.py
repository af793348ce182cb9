"""What a session is for, and how it goes about it."""

from __future__ import annotations

from dataclasses import dataclass

from midrib.v1 import embedding_pb2, tensor_pb2


@dataclass(frozen=True)
class Wanted:
    """What a stream's items ask for. revision is pinned; dtype is the features' element type, a DataType."""

    name: str
    revision: str
    dtype: tensor_pb2.DataType | None = None
    normalize: bool = False
    dimensions: int | None = None

    def opening(self) -> bytes:
        """The stream's first request."""
        options = embedding_pb2.Options(normalize=self.normalize)
        if self.dtype is not None:
            options.dtype = self.dtype
        if self.dimensions is not None:
            options.dimensions = self.dimensions
        opening = embedding_pb2.Open(backbone=self.name, revision=self.revision, options=options)
        return embedding_pb2.EmbedStreamRequest(open=opening).SerializeToString()


@dataclass(frozen=True)
class Manner:
    """How a session goes about it.

    timeout: seconds of a call.  window: items in flight; adaptive where absent.  hedge_s: ask another server as well
    for what one has not answered within so many seconds; never where absent.
    """

    timeout: float
    window: int | None = None
    hedge_s: float | None = None
