"""The bytes that an item holds while it is in flight, estimated before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midrib.registry import ImageInput, TextInput
from midrib.server._intake.media import prepared_elements
from midrib.server._intake.media_input import Media, WireTensor, media_of
from midrib.server._intake.validation import ItemLimits
from midrib.v1 import embedding_pb2
from midrib.wire import Array

_FEATURE_BYTES = 4  # float32, the dtype of most embeddings


@dataclass(frozen=True)
class ItemSizes:
    """Estimates the bytes of items of one backbone.

    limits: those of an item; a larger one counts as the largest, and is refused later.  num_features: of an embedding.
    """

    limits: ItemLimits
    num_features: int

    @property
    def largest(self) -> int:
        """The bytes of the largest input tensor [rows, ...] that an item may have, and of its embedding."""
        tensor = self.limits.spec.tensor
        longest = self.limits.spec.max_tokens if isinstance(self.limits.spec, TextInput) else self.limits.max_elements
        row = math.prod(longest if size is None else size for size in tensor.shape)
        elements = min(self.limits.max_elements, self.limits.max_rows * row)
        return elements * np.dtype(tensor.dtype).itemsize + self._embedding_bytes((self.limits.max_rows,))

    def bytes_of(self, item: embedding_pb2.Input | Media | WireTensor | Array) -> int:
        """Return the bytes of an item: those that were sent, those of its decoded media, and those of its embedding.

        item: an input message, or a tensor [rows, ...] that is already read.
        """
        if isinstance(item, np.ndarray):
            return item.nbytes + self._embedding_bytes(item.shape)
        if isinstance(item, WireTensor):
            return _sent_bytes(item) + self._embedding_bytes(item.message.shape)
        if isinstance(item, embedding_pb2.Input):
            sent, media = item.ByteSize(), media_of(item)
            if media is None:
                return sent + self._embedding_bytes(item.tensor.shape)
        else:
            sent, media = sum(map(_sent_bytes, item.items)), item
        elements = min(prepared_elements(self.limits.spec, media), self.limits.max_elements)
        prepared = self.limits.spec.pixels if isinstance(self.limits.spec, ImageInput) else self.limits.spec.tensor
        decoded = elements * np.dtype(prepared.dtype).itemsize
        return sent + decoded + self._embedding_bytes((len(media.items),))

    def _embedding_bytes(self, shape: Sequence[int]) -> int:
        rows = min(max(shape[0], 0), self.limits.max_rows) if shape else 0
        return rows * self.num_features * _FEATURE_BYTES


def _sent_bytes(item: Any) -> int:
    return len(item.data) + len(item.message.row_scales) if isinstance(item, WireTensor) else len(item)
