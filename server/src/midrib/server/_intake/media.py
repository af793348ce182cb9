"""Decode the media of an item to the rows that its backbone takes, in a pool of threads, part by part.

Media cost far more than their bytes: an image of 340 kB may take 3 s and 1 GB, and a text of 60 MB took 80 s and 10 GB.
So there are limits. Between two parts the media of other callers are decoded, and a caller who has left is noticed.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from midrib.backbones import Backbone, MediaError
from midrib.registry import AudioInput, ImageInput, InputSpec, TextInput
from midrib.server._intake.media_input import Media, WireTensor
from midrib.server._large import joined
from midrib.server._settings import Settings
from midrib.wire import Array, InvalidInputError, LimitExceededError, UnavailableError

# The weight of a part: characters of texts, or bytes of images and clips. A small image may have many pixels.
_PART_WEIGHT = 2**18
_LEAST_IMAGE_WEIGHT = 2**15
_MAX_CHAR_BYTES = 4  # in UTF-8
# One slow medium does not block all others. Further threads than cores compete with the event loop.
_LEAST_THREADS = 2


class MediaPool:
    """The threads that decode media for all backbones of a server."""

    def __init__(self, settings: Settings) -> None:
        self._max_text_chars = settings.max_text_chars
        self._max_image_pixels = settings.max_image_pixels
        self._closed = False
        self._threads = ThreadPoolExecutor(max(_LEAST_THREADS, _cores()), thread_name_prefix="media")

    async def prepare(self, backbone: Backbone, media: Media, prompt: str | None = None) -> Array:
        """Return the rows of an input of media, [rows, ...].

        prompt: put before each text; None for the backbone's default.

        Raises MediaError, with the index of the medium, for one that cannot be decoded, InvalidInputError for a text
        that is not UTF-8, LimitExceededError for one that is too long, UnavailableError if the pool is closed before
        all parts have started.
        """
        media = replace(media, items=list(media.items))  # protobuf's lists copy an item each time that it is read
        if media.kind == "texts":
            for index, text in enumerate(media.items):
                self._check_length(index, len(text) if isinstance(text, str) else len(text) // _MAX_CHAR_BYTES)
        parts = [
            await self._run(partial(self._decoded, backbone, media, start, stop, prompt=prompt))
            for start, stop in _cuts([_weight(media.kind, item) + len(prompt or "") for item in media.items])
        ]
        return _join_padded(parts)

    async def _run(self, decode: Callable[[], Array]) -> Array:
        """Decode in the pool. Raises the error of the decoder; UnavailableError once the pool is closed."""
        stopped = UnavailableError("the server stopped before this item was decoded: try another")
        if self._closed:
            raise stopped
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, decode)
        except asyncio.CancelledError:
            # `close` cancels the parts that wait; then the task of the call is not being cancelled.
            if self._closed and not _cancelling():
                raise stopped from None
            raise

    def close(self) -> None:
        """Start no more parts; do not wait for those that run."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_length(self, index: int, chars: int) -> None:
        """Raise LimitExceededError for a text that is too long."""
        if chars > self._max_text_chars:
            raise LimitExceededError(
                f"texts[{index}] has {chars} characters or more, at most {self._max_text_chars} are taken: cut it, "
                "only its first tokens count",
                field=f"input.texts[{index}]",
            )

    def _text(self, index: int, text: Any) -> str:
        """Return a text. Raises InvalidInputError if it is not UTF-8."""
        if isinstance(text, str):
            return text
        try:
            decoded = str(text, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"texts[{index}] is not UTF-8 ({error.reason}): encode it as UTF-8", field=f"input.texts[{index}]"
            ) from error
        self._check_length(index, len(decoded))
        return decoded

    def _decoded(self, backbone: Backbone, media: Media, start: int, stop: int, *, prompt: str | None) -> Array:
        """Return decoded media. Raises MediaError with the index in the request."""
        items = list(enumerate(media.items[start:stop], start))
        try:
            if media.kind == "images":
                images = [joined((encoded,)) for _, encoded in items]
                return backbone.image_pixels(images, max_pixels=self._max_image_pixels)
            if media.kind == "texts":
                return backbone.token_ids([self._text(index, text) for index, text in items], prompt=prompt)
            clips = [clip.decoded(f"input.audio.clips[{index}]") for index, clip in items]
            return backbone.audio_rows(clips, rate=media.rate)
        except MediaError as error:
            raise MediaError(start + error.index, error.problem) from error


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def media_kind(spec: InputSpec) -> str | None:
    """Return the wire's name of the media that a backbone takes; None if it takes tensors only."""
    if isinstance(spec, ImageInput):
        return "images"
    if isinstance(spec, TextInput):
        return "texts"
    return "audio" if isinstance(spec, AudioInput) else None


def prepared_elements(spec: InputSpec, media: Media) -> int:
    """Return the most elements that the rows of an input can have once decoded, padding included."""
    count = len(media.items)
    if isinstance(spec, ImageInput):
        return count * math.prod(size or 1 for size in spec.tensor.shape)
    if isinstance(spec, TextInput):
        return count * spec.max_tokens
    if media.kind != "audio":
        return 0
    longest = max((clip.message.shape[0] for clip in media.items if clip.message.shape), default=0)
    rate = media.rate
    return count * math.ceil(longest * spec.rate / rate) if isinstance(spec, AudioInput) and rate > 0 < longest else 0


def _weight(kind: str, medium: Any) -> int:
    if isinstance(medium, WireTensor):
        return len(medium.data)
    return max(len(medium), _LEAST_IMAGE_WEIGHT) if kind == "images" else len(medium)


def _cuts(weights: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each part: it has the weight of a part at most, or is one medium."""
    start = total = 0
    for index, weight in enumerate(weights):
        if index > start and total + weight > _PART_WEIGHT:
            yield start, index
            start, total = index, 0
        total += weight
    if len(weights) > start or not weights:
        yield start, len(weights)


def _join_padded(parts: Sequence[Array]) -> Array:
    """Return the rows of all parts; dimensions of an open length are padded with 0 to the longest, as in one part."""
    if len(parts) == 1:
        return parts[0]
    widest = np.max([part.shape[1:] for part in parts], axis=0)
    joined = np.zeros((sum(map(len, parts)), *widest), parts[0].dtype)
    start = 0
    for part in parts:
        joined[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return joined
