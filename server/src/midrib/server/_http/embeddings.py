"""/v1/embeddings in OpenAI's form: from the body to the engine's EmbedRequest, and back.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from midrib.registry import TextInput
from midrib.server._calls.embedder import Embedded
from midrib.server._catalogue.loading import Loaded
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import InputKindError, InvalidInputError, LimitExceededError, encode_tensor

# Rows written as JSON between two turns of the event loop.
_ROWS_A_TURN = 16
_LARGEST_ID = 2**31 - 1


class EmbeddingsBody(BaseModel):
    """What a client may send; an unknown field is an error, so that a misspelled one is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    input: Any
    """A text, texts, the token ids of a text, or of texts."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1, lt=2**63)
    user: str | None = None
    normalize: bool = True
    """Not OpenAI's: false leaves the rows as the backbone made them, not of unit length."""


def read_body(body: bytes) -> EmbeddingsBody:
    """The body of a request.

    Raises InvalidInputError where it is no JSON, or not of this form.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is no JSON ({error}): send an object with `model` and `input`") from error
    try:
        return EmbeddingsBody.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{place or 'the body'}: {first['msg']}", field=place or None) from error


def embed_request(body: EmbeddingsBody, loaded: Loaded) -> embedding_pb2.EmbedRequest:
    """The same request in Midrib's own message.

    Raises InvalidInputError for an input of another form, LimitExceededError for too many token ids.
    """
    options = embedding_pb2.Options(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32, normalize=body.normalize, dimensions=body.dimensions
    )
    return embedding_pb2.EmbedRequest(backbone=body.model, input=_input(body.input, loaded), options=options)


async def answer(embedded: Embedded, body: EmbeddingsBody) -> AsyncIterator[bytes]:
    """The response's JSON, in pieces: the event loop turns between them, for JSON is slow to write."""
    tokens = int(np.count_nonzero(embedded.inputs)) if isinstance(embedded.by.input, TextInput) else 0
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    yield f'{{"object":"list","model":{json.dumps(embedded.by.name)},"usage":{usage},"data":['.encode()
    for index, row in enumerate(embedded.features):
        if index % _ROWS_A_TURN == 0:
            await asyncio.sleep(0)
        if body.encoding_format == "base64":
            value = f'"{base64.b64encode(row.astype("<f4").tobytes()).decode()}"'
        else:
            value = json.dumps(row.tolist(), allow_nan=False)
        comma = "," if index else ""
        yield f'{comma}{{"object":"embedding","index":{index},"embedding":{value}}}'.encode()
    yield b"]}"


def _input(value: Any, loaded: Loaded) -> embedding_pb2.Input:
    if isinstance(value, str):
        return _texts([value])
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return _texts(value)
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return _ids([value], loaded)
    if isinstance(value, list) and all(isinstance(one, list) for one in value):
        return _ids(value, loaded)
    raise _not_understood()


def _not_understood() -> InvalidInputError:
    return InvalidInputError(
        f"input is not understood: send a string, a list of strings, a list of token ids (1..{_LARGEST_ID}), "
        "or a list of such lists",
        field="input",
    )


def _texts(texts: list[str]) -> embedding_pb2.Input:
    try:
        return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=texts))
    except ValueError as error:  # a lone surrogate, which JSON can spell
        raise InvalidInputError(
            "input holds text that is no valid Unicode: decode it properly", field="input"
        ) from error


def _is_id(value: object) -> bool:
    """0 is the padding, and true is no number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID


def _ids(rows: list[list[Any]], loaded: Loaded) -> embedding_pb2.Input:
    described = loaded.served.description
    if not isinstance(described.input, TextInput):
        raise InputKindError(f"backbone {described.name!r} takes no token ids: it takes no text")
    longest = max(map(len, rows))
    # Before the ids are looked at, and padded: one long row beside many would be a huge tensor.
    if len(rows) > loaded.intake.max_rows or longest > described.input.max_tokens:
        raise LimitExceededError(
            f"input has {len(rows)} rows of up to {longest} token ids, at most {loaded.intake.max_rows} rows of "
            f"{described.input.max_tokens} are taken: split or truncate them",
            field="input",
        )
    if not all(_is_id(one) for row in rows for one in row):
        raise _not_understood()
    if not all(rows):
        raise InvalidInputError("input has a list without token ids: leave it out", field="input")
    padded = np.zeros((len(rows), longest), np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return embedding_pb2.Input(tensor=encode_tensor(padded))
