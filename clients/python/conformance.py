"""Run the conformance checks in Python: `python -m clients.python.conformance ADDRESS RELEASE_DIRECTORY`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from clients.golden.generate import read
from clients.python.report import Check, report
from midrib.v1 import backbone_pb2, embedding_pb2, embedding_pb2_grpc, tensor_pb2
from midrib.v1.embedding_pb2 import BackwardRequest, EmbedRequest, EmbedStreamRequest, Input, Item, Open
from midrib.v1.tensor_pb2 import Tensor
from midrib.wire import decode_tensor, dtype_from_code, encode_int8_rows, encode_tensor, status_to_error

TIMEOUT_S = 20
STREAMED = "golden/embedding/tensor"
_FILES = (tensor_pb2, backbone_pb2, embedding_pb2)
MESSAGES = {
    kind.full_name: GetMessageClass(kind) for file in _FILES for kind in file.DESCRIPTOR.message_types_by_name.values()
}


def offline(release: Path) -> Iterator[Check]:
    """Yield the checks of reading and writing recorded messages, without a server."""
    for name, kind, _, recorded in read(release, "messages.tsv"):
        yield Check(f"messages: {name}", partial(_rewritten, MESSAGES[kind], recorded), recorded)
    for name, dtype, shape, numbers, recorded in read(release, "tensors.tsv"):
        yield Check(f"tensors: {name}", partial(_tensor, recorded), (dtype, shape, numbers, recorded))
    for name, code, reason, field, retry, message, recorded in read(release, "statuses.tsv"):
        yield Check(f"statuses: {name}", partial(_status, recorded), (code, reason, field, retry, message))


def online(stub: Any, release: Path) -> Iterator[Check]:
    """Yield the checks of the server's answers, bit by bit."""
    for name, request, embedding in read(release, "embeddings.tsv"):
        yield Check(f"embeddings: {name}", partial(_embedding, stub, request), embedding)
    for name, request, gradient in read(release, "gradients.tsv"):
        yield Check(f"gradients: {name}", partial(_gradient, stub, request), gradient)
    for name, request, code, reason in read(release, "refusals.tsv"):
        yield Check(f"refusals: {name}", partial(_refusal, stub, request), (int(code), reason))
    inputs, want = stream_items(release)
    yield Check("stream", partial(_stream, stub, inputs), want)


def stream_items(release: Path) -> tuple[list[Input], list[str]]:
    """Return the items of one stream and their outcomes: all embeddings of STREAMED without options, then an item
    without input.
    """
    inputs, want = [], []
    for _, request, embedding in read(release, "embeddings.tsv"):
        decoded = EmbedRequest.FromString(bytes.fromhex(request))
        if decoded.backbone == STREAMED and not decoded.HasField("options"):
            inputs.append(decoded.input)
            want.append(embedding)
    return [*inputs, Input()], [*want, "INVALID_INPUT"]


def _rewritten(kind: type[Message], recorded: str) -> str:
    message = kind.FromString(bytes.fromhex(recorded))
    message.DiscardUnknownFields()  # otherwise a field that was removed would still pass
    return message.SerializeToString(deterministic=True).hex()


def _tensor(recorded: str) -> tuple[str, str, str, str]:
    message = Tensor.FromString(bytes.fromhex(recorded))
    array = decode_tensor(message)
    numbers = " ".join(repr(number) for number in array.astype(np.float64).reshape(-1).tolist())
    spelt = numbers.replace("inf", "Infinity").replace("nan", "NaN")
    rewritten = encode_int8_rows(array) if message.row_scales else encode_tensor(array)
    return dtype_from_code(message.dtype).name, ",".join(map(str, array.shape)), spelt, _hex(rewritten)


def _status(recorded: str) -> tuple[str, str, str, str, str]:
    error = status_to_error(Status.FromString(bytes.fromhex(recorded)))
    retry = "" if error.retry_after is None else str(error.retry_after)
    return str(error.code), error.reason, error.field or "", retry, error.message


def _embedding(stub: Any, request: str) -> str:
    return _hex(stub.Embed(EmbedRequest.FromString(bytes.fromhex(request)), timeout=TIMEOUT_S).embedding)


def _gradient(stub: Any, request: str) -> str:
    return _hex(stub.Backward(BackwardRequest.FromString(bytes.fromhex(request)), timeout=TIMEOUT_S).grad_input)


def _refusal(stub: Any, request: str) -> tuple[int, str]:
    try:
        stub.Embed(EmbedRequest.FromString(bytes.fromhex(request)), timeout=TIMEOUT_S)
    except grpc.RpcError as caught:
        trailer: Any = caught.trailing_metadata()
        error = status_to_error(Status.FromString(dict(trailer)["grpc-status-details-bin"]))
        return error.code, error.reason
    return 0, "accepted"


def _stream(stub: Any, inputs: list[Input]) -> list[str]:
    first = EmbedStreamRequest(open=Open(backbone=STREAMED))
    items = [EmbedStreamRequest(item=Item(id=index, input=message)) for index, message in enumerate(inputs)]
    outcomes: dict[int, str] = {}
    for response in stub.EmbedStream(iter([first, *items]), timeout=TIMEOUT_S):
        result = response.result
        if result.WhichOneof("outcome") == "error":
            outcomes[result.id] = status_to_error(result.error).reason
        elif response.WhichOneof("message") == "result":
            outcomes[result.id] = _hex(result.embedding)
    return [outcomes[index] for index in range(len(inputs))]


def _hex(message: Message) -> str:
    return message.SerializeToString(deterministic=True).hex()


def main(address: str, release: str) -> bool:
    """Run every check, and return whether all passed."""
    with grpc.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        return report([*offline(Path(release)), *online(stub, Path(release))])


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
