"""`Encoder`: a served text backbone with the interface of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

import numpy as np

from midrib.remote import Client
from midrib.remote._connect.address import split_url
from midrib.wire import Array, InvalidInputError

_NO_PROMPTS: Mapping[str, str] = MappingProxyType({})


class EncodeOptions(TypedDict, total=False):
    """The options of `Encoder.encode`, as `SentenceTransformer.encode` names them.

    prompt_name: the name of a prompt in `prompts`, or of one of the model's.  prompt: the prompt itself, "" for none.
    Both None: the model's default prompt, if it has one.
    normalize_embeddings: rows of unit length.
    convert_to_tensor: return a torch tensor in place of a numpy array.
    batch_size, show_progress_bar, convert_to_numpy, device: accepted for compatibility. They change nothing: the server
    chooses its batches and its device.
    """

    prompt_name: str | None
    prompt: str | None
    normalize_embeddings: bool
    convert_to_tensor: bool
    batch_size: int
    show_progress_bar: bool | None
    convert_to_numpy: bool
    device: Any


class Encoder:
    """A served text backbone, for code that calls `SentenceTransformer.encode`. Safe to use from any thread.

    url: grpc://host:port/namespace/name, or grpcs:// for TLS.
    prompts: texts to put before the input, by name; they extend those of the model. Pass them for a backbone that was
    trained with prompts but does not name them, such as `{"query": "query: ", "document": "passage: "}` for E5.
    truncate_dim: keep only the first features.
    options: those of `midrib.remote.Client`, such as `token`, `timeout` and `priority`.
    Raises InvalidInputError for a URL that does not name a backbone. The first call connects.
    """

    def __init__(
        self, url: str, *, prompts: Mapping[str, str] = _NO_PROMPTS, truncate_dim: int | None = None, **options: Any
    ) -> None:
        address, self.name = _split_url(url)
        self.url = url
        self.prompts = dict(prompts)
        self._dimensions = truncate_dim
        self._client = Client(address, **options)

    def encode(self, sentences: str | Sequence[str], **options: Unpack[EncodeOptions]) -> Any:
        """Return the features of texts, float32: [rows, num_features], or [num_features] for a single text.

        options: see `EncodeOptions`.
        Raises TypeError for unknown options, InvalidInputError for an unknown prompt_name, and errors of the server.
        """
        if unknown := options.keys() - EncodeOptions.__optional_keys__:
            expected = ", ".join(sorted(EncodeOptions.__optional_keys__))
            raise TypeError(f"encode got unexpected arguments {sorted(unknown)}, expected some of {expected}")
        if isinstance(sentences, str):
            features = self._embed([sentences], options)[0]
        else:
            features = self._embed(list(sentences), options)
        if not options.get("convert_to_tensor"):
            return features
        import torch  # most users of this class have no torch

        return torch.from_numpy(np.array(features))

    def encode_query(self, sentences: str | Sequence[str], **options: Unpack[EncodeOptions]) -> Any:
        """Return the features of queries: `encode` with the prompt "query", if there is one."""
        return self.encode(sentences, **self._with_prompt("query", options))

    def encode_document(self, sentences: str | Sequence[str], **options: Unpack[EncodeOptions]) -> Any:
        """Return the features of documents: `encode` with the prompt "document", if there is one."""
        return self.encode(sentences, **self._with_prompt("document", options))

    def get_sentence_embedding_dimension(self) -> int:
        """Return the number of features of a row."""
        return self._dimensions or self._client.describe(self.name).num_features

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._client.close()

    @cached_property
    def _served_prompts(self) -> Mapping[str, str]:
        return self._client.describe(self.name).prompts

    def _embed(self, texts: list[str], options: EncodeOptions) -> Array:
        prompt = self._prompt(options.get("prompt"), options.get("prompt_name"))
        if not texts:
            return np.zeros((0, self.get_sentence_embedding_dimension()), np.float32)
        normalize = options.get("normalize_embeddings", False)
        return self._client.embed(
            self.name, texts=texts, dtype="float32", normalize=normalize, dimensions=self._dimensions, prompt=prompt
        )

    def _prompt(self, prompt: str | None, name: str | None) -> str | None:
        """Return the text to put before each text; None for the model's default prompt.

        Raises InvalidInputError for an unknown name.
        """
        if prompt is not None or name is None:
            return prompt
        prompts = self.prompts if name in self.prompts else self._served_prompts
        if name not in prompts:
            names = sorted({*self.prompts, *self._served_prompts})
            raise InvalidInputError(f"prompt_name is {name!r}, expected one of {names}: pass prompts=")
        return prompts[name]

    def _with_prompt(self, name: str, options: EncodeOptions) -> EncodeOptions:
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return {**options, "prompt_name": name} if name in self.prompts or name in self._served_prompts else options


def _split_url(url: str) -> tuple[str, str]:
    """Return the address and the backbone's name of a URL. Raises InvalidInputError if one of them is missing."""
    try:
        return split_url(url)
    except InvalidInputError as error:
        raise InvalidInputError(f"url is {url!r}, expected grpc://host:port/namespace/name") from error
