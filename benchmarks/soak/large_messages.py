"""Messages of 60 MiB of every kind, the backbones that they are for, and a client that sends them.

Run as a script with an address, this module is that client: it reads names of `KINDS` from stdin, sends each once, and
prints the status and the bytes of the answer.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import grpc
import numpy as np
from PIL import Image
from torch import Tensor, nn

from midrib.oip.v2.inference_pb2 import InferTensorContents, ModelInferRequest
from midrib.registry import ImageInput, Registry, TensorInput
from midrib.v1.embedding_pb2 import (
    BackwardRequest,
    EmbedRequest,
    EmbedStreamRequest,
    Images,
    Input,
    Item,
    Open,
    Options,
    Texts,
)
from midrib.wire import encode_tensor

REGISTRY = Registry("large messages")
MIB = 2**20
SIZE = 60 * MIB
PARTS = 1000
WIDTH = SIZE // 4 // 256
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# The metadata that asks the server of grpc.aio for an answer of this size.
ANSWER_BYTES = "answer-bytes"
_SERVICE = "/midrib.v1.EmbeddingService/"
_EMBED, _STREAM, _BACKWARD = (_SERVICE + method for method in ("Embed", "EmbedStream", "Backward"))
_INFER = "/inference.GRPCInferenceService/ModelInfer"


class Mean(nn.Module):
    """The mean of each row."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.float().mean(dim=1, keepdim=True)


class Wide(nn.Module):
    """Repeats the value of each row."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.expand(-1, WIDTH).contiguous()


class Picture(nn.Module):
    """The mean of each channel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))


@REGISTRY(name="mean", namespace="large", input=TensorInput((None,)))
def load_mean() -> tuple[nn.Module, int]:
    """Load a backbone for rows of any width."""
    return Mean(), 1


@REGISTRY(name="wide", namespace="large", input=TensorInput((1,)))
def load_wide() -> tuple[nn.Module, int]:
    """Load a backbone with large embeddings."""
    return Wide(), WIDTH


@REGISTRY(name="picture", namespace="large", input=ImageInput(8))
def load_picture() -> tuple[nn.Module, int]:
    """Load a backbone for images."""
    return Picture(), 3


class Call(NamedTuple):
    """One call.  messages: serialised.  answer_bytes: of a large answer.  packed: whether gzip packs the messages."""

    method: str
    messages: list[bytes]
    answer_bytes: int = 0
    packed: bool = False


def _png(size: int) -> bytes:
    """Return an image of 8 x 8 pixels with a comment of `size` bytes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    encoded = file.getvalue()
    chunk = b"tEXta\0" + bytes(size)
    comment = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:-12] + comment + encoded[-12:]


def _row() -> Any:
    return encode_tensor(np.zeros((1, SIZE // 4), np.float32))


def _ones() -> Any:
    return encode_tensor(np.ones((256, 1), np.float32))


def _embed(backbone: str, source: Input, **options: Any) -> list[bytes]:
    return [EmbedRequest(backbone=backbone, input=source, options=Options(**options)).SerializeToString()]


def _stream(backbone: str, source: Input) -> list[bytes]:
    messages = EmbedStreamRequest(open=Open(backbone=backbone)), EmbedStreamRequest(item=Item(id=1, input=source))
    return [message.SerializeToString() for message in messages]


def _images(number: int) -> Input:
    return Input(images=Images(encoded=[_png(SIZE // number - 200)] * number))


def _gradient() -> list[bytes]:
    ones = encode_tensor(np.ones((1, 1), np.float32))
    return [BackwardRequest(backbone="mean", input=_row(), grad_embedding=ones).SerializeToString()]


def _infer(datatype: str, shape: list[int], *raw: bytes, backbone: str = "mean", **contents: Any) -> list[bytes]:
    tensor = ModelInferRequest.InferInputTensor(
        name="images" if datatype == "BYTES" else "input",
        datatype=datatype,
        shape=shape,
        contents=InferTensorContents(**contents) if contents else None,
    )
    request = ModelInferRequest(model_name=backbone, inputs=[tensor], raw_input_contents=raw)
    return [request.SerializeToString()]


def _numbers() -> list[bytes]:
    return _infer("FP32", [1, SIZE // 4], fp32_contents=np.zeros(SIZE // 4, np.float32))


def _encoded() -> list[bytes]:
    images = [_png(SIZE // PARTS - 200)] * PARTS
    return _infer("BYTES", [PARTS], backbone="picture", bytes_contents=images)


KINDS: Mapping[str, Callable[[], Call]] = {
    "tensor": lambda: Call(_EMBED, _embed("mean", Input(tensor=_row()))),
    "tensor in a stream": lambda: Call(_STREAM, _stream("mean", Input(tensor=_row()))),
    "tensor, gzip": lambda: Call(_EMBED, _embed("mean", Input(tensor=_row())), packed=True),
    "gradient": lambda: Call(_BACKWARD, _gradient(), SIZE),
    "one image": lambda: Call(_EMBED, _embed("picture", _images(1))),
    "1000 images": lambda: Call(_EMBED, _embed("picture", _images(PARTS))),
    "1000 images in a stream": lambda: Call(_STREAM, _stream("picture", _images(PARTS))),
    "text": lambda: Call(_EMBED, _embed("picture", Input(texts=Texts(texts=["x" * SIZE])))),
    "name": lambda: Call(_EMBED, _embed("x" * SIZE, Input())),
    "OIP, raw": lambda: Call(_INFER, _infer("FP32", [1, SIZE // 4], bytes(SIZE))),
    "OIP, typed": lambda: Call(_INFER, _numbers()),
    "OIP, 1000 images": lambda: Call(_INFER, _encoded()),
    "answer": lambda: Call(_EMBED, _embed("wide", Input(tensor=_ones())), SIZE),
    "answer, normalised": lambda: Call(_EMBED, _embed("wide", Input(tensor=_ones()), normalize=True), SIZE),
    "answer in a stream": lambda: Call(_STREAM, _stream("wide", Input(tensor=_ones())), SIZE),
    "answer, OIP": lambda: Call(_INFER, _infer("FP32", [256, 1], np.ones(256, "<f4").tobytes(), backbone="wide"), SIZE),
}
"""Each kind by its name in the table."""


def send(channel: grpc.Channel, call: Call) -> tuple[str, int]:
    """Send a call; return the code of its status, and the bytes of its last answer."""
    behaviour: Any = channel.stream_stream(call.method)
    compression = grpc.Compression.Gzip if call.packed else None
    metadata = [(ANSWER_BYTES, str(call.answer_bytes))]
    answers = behaviour(iter(call.messages), timeout=120, metadata=metadata, compression=compression)
    sizes = [0]
    with suppress(grpc.RpcError):
        sizes += [len(answer) for answer in answers]
    return answers.code().name, sizes[-1]


def main() -> None:
    """Send the calls that stdin names."""
    make = lru_cache(maxsize=1)(lambda kind: KINDS[kind]())
    with grpc.insecure_channel(sys.argv[1], UNLIMITED) as channel:
        for line in sys.stdin:
            call = make(line.strip())
            sys.stdout.write("made\n")
            sys.stdout.flush()
            sys.stdin.readline()
            sys.stdout.write("{} {}\n".format(*send(channel, call)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
