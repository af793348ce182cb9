"""A registered backbone for `midrib embed`, loaded into its process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from midrib.wire import Array, InvalidInputError


class LocalEmbedder:
    """A registered backbone, loaded into this process."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        from midrib.backbones import load_backbone

        self._backbone = load_backbone(name, **arguments)
        self.name = self._backbone.name
        self.revision = self._backbone.revision()
        self.num_features = self._backbone.num_features

        self._prompt: str | None = None

    def with_prompt(self, prompt: str | None, prompt_name: str | None) -> LocalEmbedder:
        """Return the same backbone with another prompt for its texts; None for its default.

        Raises InvalidInputError for a prompt that it does not have.
        """
        embedder = copy.copy(self)
        try:
            embedder._prompt = self._backbone.choose_prompt(prompt, prompt_name)  # noqa: SLF001 - a copy
        except ValueError as error:
            raise InvalidInputError(str(error)) from error
        return embedder

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values of one kind, [values, num_features], float32.

        Raises InvalidInputError for arrays of a shape that the backbone does not take, and the errors of reading media.
        """
        import numpy as np
        import torch

        if kind == "images":
            rows = self._backbone.embed_images([v if isinstance(v, bytes) else Path(v).read_bytes() for v in values])
        elif kind == "texts":
            rows = self._backbone.embed_texts(values, prompt=self._prompt)
        elif kind == "audio":
            rows = self._backbone.embed_audio([clip.samples for clip in values], values[0].rate)
        else:
            self._check_shape(np.shape(values[0]))
            rows = self._backbone.embed(torch.from_numpy(np.stack(values)))
        features: Array = rows.float().cpu().numpy()
        return features

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise InvalidInputError for rows of another shape than the backbone's input."""
        expected = self._backbone.input.tensor.shape
        fits = len(shape) == len(expected) and all(
            size in (None, actual) for size, actual in zip(expected, shape, strict=True)
        )
        if not fits:
            takes = ", ".join("any" if size is None else str(size) for size in expected)
            raise InvalidInputError(f"the array has shape {list(shape)}, backbone {self.name!r} takes [{takes}]")
