"""Reads large requests of Midrib's own protocol, with any input and in any layout, without copying their data."""

from __future__ import annotations

from midrib.server._calls.embedder import Tensors
from midrib.server._grpc.codecs.messages import BackwardCall, EmbedCall, StreamItem
from midrib.server._intake.large_messages import WireMessage, read_large_input, read_large_tensor
from midrib.server._intake.media_input import WireTensor
from midrib.v1.embedding_pb2 import BackwardRequest, EmbedRequest, EmbedStreamRequest, Input, Item
from midrib.v1.tensor_pb2 import Tensor

_EMBED_INPUT = 3
_OPEN, _ITEM = 1, 2
_ITEM_INPUT = 2
_BACKWARD_INPUT, _BACKWARD_GRADIENT = 3, 4


def read_large_call(data: memoryview) -> EmbedCall:
    """Return an EmbedRequest whose input is apart. Raises as `read_large_input`."""
    message = WireMessage(data, 0, len(data), "EmbedRequest")
    field = message.only(_EMBED_INPUT)
    source = Input() if field is None else read_large_input(data, field.start, field.end)
    return EmbedCall(EmbedRequest.FromString(message.beside(_EMBED_INPUT)), source)


def read_large_item(data: memoryview) -> StreamItem | EmbedStreamRequest:
    """Return an item whose input is apart, or another message of a stream. Raises as `read_large_input`."""
    message = WireMessage(data, 0, len(data), "EmbedStreamRequest")
    field = message.only(_ITEM)
    if field is None or message.sized(_OPEN):
        return EmbedStreamRequest.FromString(message.beside())
    message.beside(_ITEM)
    item = message.nested(field, "Item")
    content = item.only(_ITEM_INPUT)
    head = Item.FromString(item.beside(_ITEM_INPUT))
    if content is None:
        return EmbedStreamRequest(item=head)
    if head.HasField("shared"):  # refused later, because it has an input too
        head.input.SetInParent()
        return EmbedStreamRequest(item=head)
    return StreamItem(head.id, read_large_input(data, content.start, content.end))


def read_large_backward(data: memoryview) -> BackwardCall:
    """Return a BackwardRequest whose tensors are apart. Raises as `read_large_tensor`."""
    message = WireMessage(data, 0, len(data), "BackwardRequest")
    request = BackwardRequest.FromString(message.beside(_BACKWARD_INPUT, _BACKWARD_GRADIENT))
    tensors = Tensors(_tensor(message, _BACKWARD_INPUT), _tensor(message, _BACKWARD_GRADIENT))
    return BackwardCall(request, tensors)


def read_backward(data: bytes) -> BackwardCall:
    """Return a BackwardRequest that protobuf's library reads. Raises DecodeError."""
    return BackwardCall(BackwardRequest.FromString(data), None)


def _tensor(message: WireMessage, number: int) -> WireTensor:
    field = message.only(number)
    return WireTensor(Tensor(), b"") if field is None else read_large_tensor(message.data, field.start, field.end)
