"""Requests whose data were read apart from their message."""

from __future__ import annotations

from typing import NamedTuple

from midrib.server._calls.embedder import ItemInput, Tensors
from midrib.v1.embedding_pb2 import BackwardRequest, EmbedRequest


class EmbedCall(NamedTuple):
    """An Embed call. source: the input, which the request then lacks; None if the request has it."""

    request: EmbedRequest
    source: ItemInput | None


class StreamItem(NamedTuple):
    """An item of a stream whose input was read apart."""

    id: int
    source: ItemInput


class BackwardCall(NamedTuple):
    """A Backward call. tensors: its input and gradient, which the request then lacks; None if the request has them."""

    request: BackwardRequest
    tensors: Tensors | None
