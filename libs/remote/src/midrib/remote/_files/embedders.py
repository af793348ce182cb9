"""Embed values with a served backbone or an object of the caller; shape the features for the output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast, runtime_checkable

import numpy as np

from midrib.remote._clients.client import Client
from midrib.remote._clients.options import FeatureOptions
from midrib.remote._connect.address import split_url
from midrib.remote._files.formats.audio_file import AudioSamples
from midrib.wire import Array, InternalError, InvalidInputError

# Per chunk: a backbone may be slow, and nothing of a chunk is saved before all of it is done.
_TIMEOUT_S: Final = 600.0
_DTYPES: Final = ("float32", "float16")


class ValueEmbedder(Protocol):
    """Embeds values: a served backbone, or an object of the caller."""

    name: str
    revision: str
    num_features: int

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values, [values, num_features].

        kind: "images" (paths or bytes), "texts" (strings), "tensor" (arrays) or "audio" (objects with `samples`,
        [samples, channels], and `rate`, the same for all of them).
        """
        ...


@runtime_checkable
class PromptedEmbedder(ValueEmbedder, Protocol):
    """An embedder whose backbone knows prompts."""

    def with_prompt(self, prompt: str | None, prompt_name: str | None) -> ValueEmbedder:
        """Return the same embedder with another prompt for its texts. Raises an error for one that it lacks."""
        ...


@runtime_checkable
class ParallelEmbedder(ValueEmbedder, Protocol):
    """An embedder that several processes compute.  concurrency: how many calls keep all of them busy."""

    concurrency: int


class PrefixingEmbedder:
    """Puts a prompt before the texts of an embedder that does not know prompts."""

    def __init__(self, embedder: ValueEmbedder, prompt: str) -> None:
        self.name, self.revision, self.num_features = embedder.name, embedder.revision, embedder.num_features
        self._embedder = embedder
        self._prompt = prompt

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of the values, [values, num_features]."""
        return self._embedder(kind, [self._prompt + text for text in values] if kind == "texts" else values)


def with_prompt(embedder: ValueEmbedder, prompt: str | None, prompt_name: str | None) -> ValueEmbedder:
    """Return an embedder that puts a prompt before each text; both None for the backbone's default.

    Raises InvalidInputError for a prompt_name that the embedder does not know.
    """
    if prompt is None and prompt_name is None:
        return embedder
    if isinstance(embedder, PromptedEmbedder):
        return embedder.with_prompt(prompt, prompt_name)
    if prompt is None:
        raise InvalidInputError(f"{embedder.name} has no prompt {prompt_name!r}: pass the text itself as prompt")
    return PrefixingEmbedder(embedder, prompt)


class RemoteEmbedder:
    """A served backbone, pinned to its revision at construction.

    kwargs: the Client's.
    Raises BackboneLoadingError if the server still loads it after the timeout, or failed to load it.
    """

    def __init__(self, url: str, **kwargs: Any) -> None:
        address, self.name = split_url(url)
        options = {"priority": "bulk", "timeout": _TIMEOUT_S, **kwargs}
        self._client = Client(address, **options)
        self._info = self._client.describe(self.name)
        self._info.takes  # noqa: B018 - raises for a backbone that failed to load
        self.revision, self.num_features = self._info.revision, self._info.num_features
        self._prompt: str | None = None
        self._prompt_name: str | None = None

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of the values, [values, num_features]; raise the server's errors."""
        inputs: dict[str, Any] = {kind: values}
        if kind == "tensor":
            inputs = {"x": np.stack(values)}
        elif kind == "audio":
            inputs = {"audio": [clip.samples for clip in values], "rate": values[0].rate}
        if kind == "texts":
            inputs |= {"prompt": self._prompt, "prompt_name": self._prompt_name}
        return self._client.embed(self.name, **inputs, dtype="float32", revision=self.revision)

    def with_prompt(self, prompt: str | None, prompt_name: str | None) -> RemoteEmbedder:
        """Return the same embedder with another prompt for its texts; None for the backbone's default.

        Raises InvalidInputError or UnsupportedError for a prompt that the backbone or its server does not take.
        """
        FeatureOptions(prompt=prompt, prompt_name=prompt_name).spec(self._info)
        embedder = copy.copy(self)
        embedder._prompt, embedder._prompt_name = prompt, prompt_name  # noqa: SLF001 - a copy of this object
        return embedder


def embedder_from(
    backbone: str | ValueEmbedder | Callable[[], ValueEmbedder], client_options: dict[str, Any]
) -> ValueEmbedder:
    """Return the embedder of a URL, the embedder itself, or the one that a function makes."""
    if isinstance(backbone, str):
        return RemoteEmbedder(backbone, **client_options)
    if not isinstance(backbone, type) and hasattr(backbone, "revision"):
        return cast("ValueEmbedder", backbone)
    return backbone()


@dataclass(frozen=True)
class OutputOptions:
    """How the features are stored.

    dimensions: keep the first features of each row only.  normalize: scale rows to unit length, after that.
    dtype: "float32" or "float16".
    Raises InvalidInputError for another dtype, or a number of dimensions that is not positive.
    """

    dimensions: int | None = None
    normalize: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise InvalidInputError(f"dtype is {self.dtype!r}, expected {' or '.join(_DTYPES)}")
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidInputError(f"dimensions is {self.dimensions}, expected at least 1")

    def width(self, embedder: ValueEmbedder) -> int:
        """Return the number of features per row. Raises InvalidInputError if the backbone has fewer."""
        if self.dimensions is not None and self.dimensions > embedder.num_features:
            raise InvalidInputError(
                f"dimensions is {self.dimensions}, expected at most {embedder.num_features}, the features of "
                f"{embedder.name}"
            )
        return self.dimensions or embedder.num_features

    def embed(self, embedder: ValueEmbedder, kind: str, values: list[Any]) -> Array:
        """Return the features of values, [values, width]; raise the embedder's errors."""
        features = _by_rate(embedder, values) if kind == "audio" else embedder(kind, values)
        if features.shape != (len(values), embedder.num_features):
            raise InternalError(
                f"{embedder.name} gave features of shape {list(features.shape)} for {len(values)} items, expected "
                f"{[len(values), embedder.num_features]}"
            )
        return self._stored(features)

    def _stored(self, features: Array) -> Array:
        rows = features.astype(np.float32, copy=False)[:, : self.dimensions]
        if self.normalize:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.maximum(norms, np.finfo(np.float32).tiny)
        with np.errstate(over="ignore"):  # infinite in float16
            return rows.astype(self.dtype)


def _by_rate(embedder: ValueEmbedder, clips: list[AudioSamples]) -> Array:
    """Return the features of clips of any rates, [clips, num_features]."""
    features = np.empty((len(clips), embedder.num_features), np.float32)
    for rate in sorted({clip.rate for clip in clips}):
        rows = [row for row, clip in enumerate(clips) if clip.rate == rate]
        features[rows] = embedder("audio", [clips[row] for row in rows])
    return features
