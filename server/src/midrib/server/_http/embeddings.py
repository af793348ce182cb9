"""/v1/embeddings in OpenAI's form: from the body to the engine's EmbedRequests, and back.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from midrib.backbones import Prompts
from midrib.server._catalogue.loading import Loaded
from midrib.server._http.body import AnswerFields, Fields, free
from midrib.server._http.call import CallAnswer
from midrib.server._http.inputs import split_input
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, InternalError

# Numbers written as JSON before the event loop serves other calls: a few milliseconds.
NUMBERS_AT_ONCE = 2**11
# The most bytes that one number takes in an answer. JSON: -1.2345678901234567e-10 and a comma.
JSON_NUMBER_BYTES = 24
_BASE64_NUMBER_BYTES = 6
_ROW_BYTES = 64
_QUERY_NAMES = ("query",)
_DOCUMENT_NAMES = ("document", "passage", "corpus")
_NAMES_BY_TYPE = {
    "query": _QUERY_NAMES,
    "search_query": _QUERY_NAMES,
    "passage": _DOCUMENT_NAMES,
    "document": _DOCUMENT_NAMES,
    "search_document": _DOCUMENT_NAMES,
}


class EmbeddingsBody(Fields):
    """The body of POST /v1/embeddings."""

    model: str
    """The name of a served backbone."""
    input: Any
    """A text, a list of texts, an image (base64 or a data URL), a list of images, or token ids."""
    encoding_format: Literal["float", "base64"] = "float"
    """Each embedding as a list of numbers, or as the base64 of little-endian float32."""
    dimensions: int | None = Field(default=None, ge=1, lt=2**63)
    """Keep only this many numbers of each embedding."""
    user: str | None = None
    """Accepted and ignored."""
    prompt: str | None = None
    """Not in OpenAI's API: put before each text, in place of the backbone's default prompt; "" for none."""
    prompt_name: str | None = None
    """Not in OpenAI's API: one of the backbone's prompts, in place of prompt."""
    input_type: Literal["query", "search_query", "passage", "document", "search_document"] | None = None
    """Not in OpenAI's API: use the backbone's prompt for queries or for documents, if it has one."""
    normalize: bool = True
    """Not in OpenAI's API: false returns the rows of the backbone, without scaling them to unit length."""


class Usage(AnswerFields):
    """The number of tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingEntry(AnswerFields):
    """The embedding of one input: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(AnswerFields):
    """The answer of POST /v1/embeddings."""

    object: Literal["list"]
    model: str
    usage: Usage
    data: list[EmbeddingEntry]


def embed_requests(body: EmbeddingsBody, loaded: Loaded, *, token_ids: bool) -> list[embedding_pb2.EmbedRequest]:
    """Return the same call as requests of Midrib's own protocol, one for each item. The input of the body is freed.

    Raises the errors of `split_input`.
    """
    options = embedding_pb2.Options(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        normalize=body.normalize,
        dimensions=body.dimensions,
        prompt=body.prompt,
        prompt_name=_prompt_name(body, loaded.intake.prompts),
    )
    try:
        parts = split_input(body.input, loaded, token_ids=token_ids)
    finally:
        free(body.input)
    name = loaded.served.description.name
    return [embedding_pb2.EmbedRequest(backbone=name, input=part, options=options) for part in parts]


def _prompt_name(body: EmbeddingsBody, prompts: Prompts) -> str | None:
    """Return the name of the prompt that a call chose; None for the backbone's default.

    For an input_type, it is the prompt of that name; if the backbone does not have it, the one that `encode_query` or
    `encode_document` of sentence-transformers uses.
    """
    if body.input_type is None or body.prompt is not None or body.prompt_name is not None:
        return body.prompt_name
    if prompts.named.get(body.input_type):
        return body.input_type
    return next((name for name in _NAMES_BY_TYPE[body.input_type] if name in prompts.named), None)


def answer_bytes(body: EmbeddingsBody, width: int) -> int:
    """Return the most bytes that one row of `width` numbers takes in the answer."""
    return _ROW_BYTES + width * (_BASE64_NUMBER_BYTES if body.encoding_format == "base64" else JSON_NUMBER_BYTES)


async def answer_parts(answer: CallAnswer, body: EmbeddingsBody) -> AsyncIterator[bytes]:
    """Yield the JSON of the response in parts, and let the event loop run between them.

    Raises InternalError if the numbers are not finite and the caller did not ask for base64.
    """
    if body.encoding_format == "float":
        check_finite(answer)
    usage = json.dumps({"prompt_tokens": answer.tokens, "total_tokens": answer.tokens})
    yield f'{{"object":"list","model":{json.dumps(answer.by.name)},"usage":{usage},"data":['.encode()
    rows_at_once = max(1, NUMBERS_AT_ONCE // max(1, answer.features.shape[1]))
    for index, row in enumerate(answer.features):
        if index % rows_at_once == 0:
            await asyncio.sleep(0)
        value = _base64(row) if body.encoding_format == "base64" else json.dumps(row.tolist(), allow_nan=False)
        comma = "," if index else ""
        yield f'{comma}{{"object":"embedding","index":{index},"embedding":{value}}}'.encode()
    yield b"]}"


def check_finite(answer: CallAnswer) -> None:
    """Raise InternalError for numbers that JSON cannot carry."""
    if not np.isfinite(answer.features).all():
        raise InternalError(
            f"backbone {answer.by.name!r} returned NaN or infinite numbers, which JSON cannot carry: check the "
            "input, or ask for base64"
        )


def _base64(row: Array) -> str:
    return f'"{base64.b64encode(row.astype("<f4").tobytes()).decode()}"'
