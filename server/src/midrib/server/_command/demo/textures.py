"""Cut three photographs of textures, which come with scikit-image, into patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("brick", "grass", "gravel")
PATCH = 64


@dataclass(frozen=True)
class Patches:
    """images: [rows, PATCH, PATCH, 3], uint8.  labels: [rows], int64, an index into CLASSES."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_textures() -> tuple[Patches, Patches]:
    """Return training patches from the left halves and test patches from the right halves.

    Raises ImportError, with the install line, if scikit-image is missing.
    """
    photographs = [_photograph(name) for name in CLASSES]
    middle = photographs[0].shape[1] // 2
    return _patches([image[:, :middle] for image in photographs]), _patches(
        [image[:, middle:] for image in photographs]
    )


def _photograph(name: str) -> NDArray[np.uint8]:
    """Return a photograph. Raises ImportError without scikit-image."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f"the demo's photographs need scikit-image ({error}): pip install 'midrib-server[demo]'"
        ) from error
    image: NDArray[Any] = getattr(data, name)()
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]


def _patches(images: list[NDArray[np.uint8]]) -> Patches:
    cut, labels = [], []
    for label, image in enumerate(images):
        for top in range(0, image.shape[0] - PATCH + 1, PATCH):
            for left in range(0, image.shape[1] - PATCH + 1, PATCH):
                cut.append(image[top : top + PATCH, left : left + PATCH])
                labels.append(label)
    return Patches(np.stack(cut), np.array(labels, dtype=np.int64))
