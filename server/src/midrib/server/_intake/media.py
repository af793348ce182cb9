"""An item's media, as the rows that its backbone takes: decoded beside the event loop, a piece at a time.

What a client sends is small beside what it costs: an image of 340 kB may take 3 s and 1 GB, a text of 60 MB took 80 s
and 10 GB. So there are limits; and between two pieces others get their turn, and a caller who has left is noticed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from midrib.backbones import Backbone, MediaError
from midrib.registry import AudioInput, ImageInput, InputSpec, TextInput
from midrib.server._settings import Settings
from midrib.v1 import embedding_pb2
from midrib.wire import Array, LimitExceededError, decode_tensor

# Of a piece: characters of texts, bytes of clips; an image, however few its bytes, counts as the least.
_PIECE = 2**18
_LEAST_OF_IMAGE = 2**15


class MediaPool:
    """The threads that decode, for all backbones of a server."""

    def __init__(self, settings: Settings) -> None:
        self._max_text_chars = settings.max_text_chars
        self._max_image_pixels = settings.max_image_pixels
        self._threads = ThreadPoolExecutor(thread_name_prefix="media")

    async def prepare(self, backbone: Backbone, message: embedding_pb2.Input) -> Array:
        """The rows of an input that holds media.

        Raises MediaError, with the item's index, for one that is unusable, LimitExceededError for too long a text.
        """
        self._check_lengths(message.texts.texts)
        loop = asyncio.get_running_loop()
        pieces = [
            await loop.run_in_executor(self._threads, self._piece, backbone, message, start, stop)
            for start, stop in _cuts([_weight(one) for one in media_of(message)])
        ]
        return _joined(pieces)

    def close(self) -> None:
        """Start no more pieces; those that run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_lengths(self, texts: Sequence[str]) -> None:
        for index, text in enumerate(texts):
            if len(text) > self._max_text_chars:
                raise LimitExceededError(
                    f"texts[{index}] has {len(text)} characters, at most {self._max_text_chars} are taken: cut it, "
                    "only its first tokens count",
                    field=f"input.texts[{index}]",
                )

    def _piece(self, backbone: Backbone, message: embedding_pb2.Input, start: int, stop: int) -> Array:
        media: Any = media_of(message)[start:stop]
        try:
            if message.WhichOneof("kind") == "images":
                prepared = backbone.prepare_images(list(media), max_pixels=self._max_image_pixels)
            elif message.WhichOneof("kind") == "texts":
                return backbone.token_ids(list(media))
            else:
                clips = [
                    decode_tensor(clip, field=f"input.audio.clips[{start + index}]") for index, clip in enumerate(media)
                ]
                prepared = backbone.prepare_audio(clips, rate=message.audio.rate)
        except MediaError as error:
            raise MediaError(start + error.index, error.problem) from error
        rows: Array = prepared.numpy()
        return rows


def media_kind(spec: InputSpec) -> str | None:
    """The wire's name of the media that a backbone takes; None where it takes tensors only."""
    if isinstance(spec, ImageInput):
        return "images"
    if isinstance(spec, TextInput):
        return "texts"
    return "audio" if isinstance(spec, AudioInput) else None


def media_of(message: embedding_pb2.Input) -> Sequence[Any]:
    """The media of an input that holds no tensor."""
    return message.images.encoded or message.texts.texts or message.audio.clips


def prepared_elements(spec: InputSpec, message: embedding_pb2.Input) -> int:
    """How many elements the rows of an input will have at most, padding included; known before any is decoded."""
    count = len(media_of(message))
    if isinstance(spec, ImageInput):
        return count * math.prod(size or 1 for size in spec.tensor.shape)
    if isinstance(spec, TextInput):
        return count * spec.max_tokens
    longest = max((clip.shape[0] for clip in message.audio.clips if clip.shape), default=0)
    rate = message.audio.rate
    return count * math.ceil(longest * spec.rate / rate) if isinstance(spec, AudioInput) and rate > 0 < longest else 0


def _weight(medium: Any) -> int:
    if isinstance(medium, str):
        return len(medium)
    return max(len(medium), _LEAST_OF_IMAGE) if isinstance(medium, bytes) else len(medium.data)


def _cuts(weights: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where to cut a list, so that each part weighs no more than a piece, or is one medium."""
    start = weighs = 0
    for index, weight in enumerate(weights):
        if index > start and weighs + weight > _PIECE:
            yield start, index
            start, weighs = index, 0
        weighs += weight
    if len(weights) > start or not weights:
        yield start, len(weights)


def _joined(pieces: Sequence[Array]) -> Array:
    """All rows of the pieces; those of an open length are padded with 0 to the longest, as one piece pads its own."""
    if len(pieces) == 1:
        return pieces[0]
    widest = np.max([piece.shape[1:] for piece in pieces], axis=0)
    joined = np.zeros((sum(map(len, pieces)), *widest), pieces[0].dtype)
    start = 0
    for piece in pieces:
        joined[(slice(start, start + len(piece)), *map(slice, piece.shape[1:]))] = piece
        start += len(piece)
    return joined
