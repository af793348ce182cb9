"""Requests and their expected answers, computed from integers without a server."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from google.rpc import code_pb2
from PIL import Image

from clients.golden.backbones import IMAGE_SIZE, MAX_TOKENS, NAMESPACE, NUM_FEATURES, RATE, WEIGHT
from midrib.v1.embedding_pb2 import AudioClips, BackwardRequest, EmbedRequest, Images, Input, Options, Texts
from midrib.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_INT8, DATA_TYPE_INT32, Tensor
from midrib.wire import Array, code_from_dtype, encode_tensor

ROWS = np.array([[1, 2, 3, 4], [-0.5, 0.25, 8, -1]], dtype=np.float32)
# Features 3 4 0 0, of length 5; and 5 12 18 -1, the first two of length 13.
PYTHAGORAS = np.array([[3, 4, -7, -2], [5, 12, 1, 1]], dtype=np.float32)
# Features 127 3 -70 1 and 63.5 -0.5 3 27.5: as int8, steps of one and of a half.
STEPPED = np.array([[127, 3, -200, -250], [63.5, -0.5, -60, -100]], dtype=np.float32)
STEPS = Tensor(
    dtype=DATA_TYPE_INT8,
    shape=[2, 4],
    data=np.array([127, 3, -70, 1, 127, -1, 6, 55], dtype=np.int8).tobytes(),
    row_scales=np.array([1, 0.5], dtype="<f4").tobytes(),
)
WHITE_NOISE = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
GREY = np.full((IMAGE_SIZE, IMAGE_SIZE), 200, dtype=np.uint8)
CLIPS = [np.array([0.5, -0.25, 1, 0, 0.125], dtype=np.float32), np.array([1, -1], dtype=np.float32)]


class Refusal(NamedTuple):
    """The status code and the reason of a refused call."""

    code: int
    reason: str


def exact(rows: Iterable[Any]) -> Array:
    """Return the features that `golden.backbones` compute for rows of numbers: [rows, 4], float32."""
    features: list[Array] = []
    for row in rows:
        numbers = np.asarray(row, dtype=np.float64).reshape(-1)
        sums = np.array([numbers[index::NUM_FEATURES].sum() for index in range(NUM_FEATURES)])
        features.append(np.array(WEIGHT) @ sums)
    return np.array(features, dtype=np.float32).reshape(-1, NUM_FEATURES)


def embeddings() -> Iterator[tuple[str, EmbedRequest, Array | Tensor]]:
    """Yield every successful Embed: its name, request and embedding."""
    yield from _typed()
    yield "features of int8", embed("tensor", tensor(STEPPED), Options(dtype=DATA_TYPE_INT8)), STEPS
    yield from _optional()
    yield from _media()


def _typed() -> Iterator[tuple[str, EmbedRequest, Array]]:
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        yield f"rows of {dtype}", embed("tensor", tensor(ROWS.astype(dtype))), exact(ROWS)
        options = Options(dtype=code_from_dtype(dtype))
        yield f"features of {dtype}", embed("tensor", tensor(ROWS), options), exact(ROWS).astype(dtype)
    yield "no rows", embed("tensor", tensor(ROWS[:0])), exact(ROWS[:0])
    many = np.arange(400, dtype=np.float32).reshape(100, 4)
    yield "many rows", embed("tensor", tensor(many)), exact(many)


def _optional() -> Iterator[tuple[str, EmbedRequest, Array]]:
    features = exact(PYTHAGORAS)
    yield "dimensions", embed("tensor", tensor(PYTHAGORAS), Options(dimensions=3)), features[:, :3]
    unit = features[:1] / np.float32(5)
    yield "normalize", embed("tensor", tensor(PYTHAGORAS[:1]), Options(normalize=True)), unit
    unit = features[:, :2] / np.array([[5], [13]], dtype=np.float32)
    both = Options(dimensions=2, normalize=True)
    yield "dimensions, then normalize", embed("tensor", tensor(PYTHAGORAS), both), unit
    both.dtype = code_from_dtype("bfloat16")
    yield "and then bfloat16", embed("tensor", tensor(PYTHAGORAS), both), unit.astype("bfloat16")


def _media() -> Iterator[tuple[str, EmbedRequest, Array]]:
    pixels = [WHITE_NOISE.transpose(2, 0, 1), np.stack([GREY] * 3)]
    images = Images(encoded=[png(WHITE_NOISE), png(GREY)])
    yield "an image", embed("image", Input(images=Images(encoded=images.encoded[:1]))), exact(pixels[:1])
    yield "images, one grey", embed("image", Input(images=images)), exact(pixels)
    texts = ["leaf", "", "süß", "\U0001f33f", "longer than eight bytes"]
    ids = [[byte + 1 for byte in text.encode()][:MAX_TOKENS] for text in texts]
    yield "texts", embed("text", Input(texts=Texts(texts=texts))), exact(ids)
    for dtype in ("int32", "int64"):
        yield f"token ids of {dtype}", embed("text", tensor(np.array([ids[0]], dtype=dtype))), exact(ids[:1])
    clips = AudioClips(clips=[encode_tensor(clip) for clip in CLIPS], rate=RATE)
    yield "clips", embed("audio", Input(audio=clips)), exact(CLIPS)
    pcm = AudioClips(clips=[encode_tensor(np.array([16384, -32768, 8192], dtype=np.int16))], rate=RATE)
    yield "a clip of int16", embed("audio", Input(audio=pcm)), exact([[0.5, -1, 0.25]])


def gradients() -> Iterator[tuple[str, BackwardRequest, Array]]:
    """Yield every Backward: its name, request and gradient of the input."""
    gradient = np.array([[1, 0, 2, 0], [0.5, -1, 0, 4]], dtype=np.float32)
    expected = gradient @ np.array(WEIGHT, dtype=np.float32)
    for dtype in ("float32", "float16", "bfloat16"):
        request = BackwardRequest(
            backbone=f"{NAMESPACE}/tensor",
            input=encode_tensor(ROWS.astype(dtype)),
            grad_embedding=encode_tensor(gradient),
        )
        yield f"rows of {dtype}", request, expected.astype(dtype)


def refusals() -> Iterator[tuple[str, EmbedRequest, Refusal]]:
    """Yield every refused Embed: its name, request and refusal."""
    wrong = Refusal(code_pb2.INVALID_ARGUMENT, "INVALID_INPUT")
    yield "unknown backbone", embed("tensors", tensor(ROWS)), Refusal(code_pb2.NOT_FOUND, "BACKBONE_NOT_FOUND")
    other = embed("tensor", tensor(ROWS))
    other.revision = "0" * 64
    yield "another revision", other, Refusal(code_pb2.FAILED_PRECONDITION, "REVISION_MISMATCH")
    texts = Input(texts=Texts(texts=["leaf"]))
    yield "wrong kind", embed("tensor", texts), Refusal(code_pb2.FAILED_PRECONDITION, "WRONG_INPUT_KIND")
    yield "no input", embed("tensor", Input()), wrong
    yield "wrong shape", embed("tensor", tensor(ROWS[:, :3])), wrong
    yield "no dtype", embed("tensor", Input(tensor=Tensor(shape=[1, 4], data=bytes(16)))), wrong
    short = Input(tensor=Tensor(dtype=DATA_TYPE_FLOAT32, shape=[1, 4], data=bytes(15)))
    yield "too few bytes", embed("tensor", short), wrong
    negative = Input(tensor=Tensor(dtype=DATA_TYPE_FLOAT32, shape=[-1, 4], data=bytes(16)))
    yield "negative shape", embed("tensor", negative), wrong
    yield "too many dimensions", embed("tensor", tensor(ROWS), Options(dimensions=5)), wrong
    yield "features of int32", embed("tensor", tensor(ROWS), Options(dtype=DATA_TYPE_INT32)), wrong
    yield "broken image", embed("image", Input(images=Images(encoded=[b"no image"]))), wrong
    rows = tensor(np.ones((1025, 1), dtype=np.int8))
    yield "too many rows", embed("text", rows), Refusal(code_pb2.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")


def embed(backbone: str, rows: Input, options: Options | None = None) -> EmbedRequest:
    """Return a request to one of the golden backbones."""
    return EmbedRequest(backbone=f"{NAMESPACE}/{backbone}", input=rows, options=options)


def tensor(rows: Array) -> Input:
    """Return a tensor input."""
    return Input(tensor=encode_tensor(rows))


def png(pixels: Array) -> bytes:
    """Return the pixels as PNG, which is lossless."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
