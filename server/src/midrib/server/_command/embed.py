"""A registered backbone for `midrib embed`, loaded into its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midrib.wire import Array


class LocalEmbedder:
    """A registered backbone, loaded into this process."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        from midrib.backbones import load_backbone

        self._backbone = load_backbone(name, **arguments)
        self.name = self._backbone.name
        self.revision = self._backbone.revision()
        self.num_features = self._backbone.num_features

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values of one kind, [values, num_features], float32."""
        import numpy as np
        import torch

        if kind == "images":
            rows = self._backbone.embed_images([v if isinstance(v, bytes) else Path(v).read_bytes() for v in values])
        elif kind == "texts":
            rows = self._backbone.embed_texts(values)
        elif kind == "audio":
            rows = self._backbone.embed_audio([clip.samples for clip in values], values[0].rate)
        else:
            rows = self._backbone.embed(torch.from_numpy(np.stack(values)))
        features: Array = rows.float().cpu().numpy()
        return features
