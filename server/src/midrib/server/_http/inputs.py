"""The `input` of a request to /v1/embeddings, as the inputs of one or more items."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from midrib.registry import ImageInput, TextInput
from midrib.server._catalogue.loading import Loaded
from midrib.server._intake.media import prepared_elements
from midrib.server._intake.media_input import Media
from midrib.v1 import embedding_pb2
from midrib.wire import InputKindError, InvalidInputError, LimitExceededError, encode_tensor

# OpenAI's limit, which its users' programs rely on.
MAX_INPUTS = 2048
_LARGEST_ID = 2**31 - 1


def split_input(value: Any, loaded: Loaded, *, token_ids: bool) -> list[embedding_pb2.Input]:
    """Return the inputs of a call, in order: one, or several if the backbone takes fewer rows in an item.

    value: a text or an encoded image, a list of them, the token ids of a text, or a list of such lists.
    token_ids: whether callers may send token ids.
    Raises InvalidInputError for any other value, InputKindError for media that the backbone does not take,
    LimitExceededError for too many inputs or too many token ids.
    """
    entries = value if _is_list_of(value, str | list) else [value]
    if len(entries) > MAX_INPUTS:
        raise LimitExceededError(
            f"input has {len(entries)} entries, at most {MAX_INPUTS} are accepted in one call: split it", field="input"
        )
    if _is_list_of(entries, str):
        if isinstance(loaded.intake.backbone.input, ImageInput):
            return [image_input(part) for part in _parts(decoded_images(entries), loaded)]
        return [text_input(part) for part in _parts(entries, loaded)]
    if not _is_list_of(entries, list) or not all(_is_list_of(row, int) for row in entries):
        raise _unexpected(token_ids=token_ids)
    if not token_ids:
        raise _refused_token_ids()
    _check_token_ids(entries, loaded)
    return [_padded(part) for part in _parts(entries, loaded)]


def _is_list_of(value: Any, kinds: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kinds) for entry in value)


def _parts(entries: Sequence[Any], loaded: Loaded) -> list[Sequence[Any]]:
    """Cut a list so that each part is one item of the backbone; an empty list is one empty part."""
    spec = loaded.intake.backbone.input
    elements = max(1, prepared_elements(spec, Media("texts", [""])))
    rows = max(1, min(loaded.intake.max_rows, loaded.intake.max_elements // elements))
    return [entries[start : start + rows] for start in range(0, len(entries), rows)] or [entries]


def text_input(texts: Sequence[str]) -> embedding_pb2.Input:
    """Return an input of texts. Raises InvalidInputError for one that is not valid Unicode."""
    try:
        return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=texts))
    except ValueError as error:  # a lone surrogate, which JSON can spell
        raise InvalidInputError(
            "input has a text that is not valid Unicode: it holds half of a surrogate pair", field="input"
        ) from error


def decoded_images(texts: Sequence[str]) -> list[bytes]:
    """Return the encoded images (JPEG, PNG, ...) of texts that are base64 or data URLs.

    Raises InvalidInputError, with its index, for a text that is neither.
    """
    return [_image(index, text) for index, text in enumerate(texts)]


def image_input(encoded: Sequence[bytes]) -> embedding_pb2.Input:
    """Return an input of encoded images."""
    return embedding_pb2.Input(images=embedding_pb2.Images(encoded=encoded))


def _image(index: int, text: str) -> bytes:
    """Return the bytes of an image. Raises InvalidInputError unless it is base64 in a data URL."""
    header, comma, data = text.rpartition(",")
    if comma and not (header.startswith("data:image/") and header.endswith(";base64")):
        raise _bad_image(index)
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise _bad_image(index) from error


def _bad_image(index: int) -> InvalidInputError:
    return InvalidInputError(
        f'input[{index}] is not an encoded image: send base64, or a data URL ("data:image/png;base64,...")',
        field=f"input[{index}]",
    )


def _unexpected(*, token_ids: bool) -> InvalidInputError:
    more = f", a list of token ids (0..{_LARGEST_ID}), or a list of such lists" if token_ids else ""
    return InvalidInputError(f"input has another form: send a string, a list of strings{more}", field="input")


def _refused_token_ids() -> InvalidInputError:
    return InvalidInputError(
        "input holds token ids, and this server accepts only texts, because ids of another tokenizer would give wrong "
        "embeddings without an error: send texts. With LangChain, set "
        "OpenAIEmbeddings(check_embedding_ctx_length=False). If callers use the tokenizer of the backbone, the "
        "operator can set http_token_ids",
        field="input",
    )


def _check_token_ids(rows: Sequence[list[int]], loaded: Loaded) -> None:
    """Raise a MidribError for rows that cannot be padded: a long row beside many would make a huge tensor."""
    described = loaded.served.description
    if not isinstance(described.input, TextInput):
        raise InputKindError(f"backbone {described.name!r} does not take token ids, because it does not take texts")
    longest = max(map(len, rows))
    if longest > described.input.max_tokens:
        raise LimitExceededError(
            f"input has a list of {longest} token ids, at most {described.input.max_tokens} are accepted: truncate it",
            field="input",
        )
    if not all(rows):
        raise InvalidInputError("input has a list without token ids: remove it", field="input")
    if not all(0 <= token <= _LARGEST_ID and not isinstance(token, bool) for row in rows for token in row):
        raise _unexpected(token_ids=True)


def _padded(rows: Sequence[list[int]]) -> embedding_pb2.Input:
    """Return the rows as one tensor [rows, longest]: 0 is padding, and -1 the token whose id is 0."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = [token or -1 for token in row]
    return embedding_pb2.Input(tensor=encode_tensor(padded))
