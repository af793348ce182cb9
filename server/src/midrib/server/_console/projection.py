"""Vectors as points of the plane: by PCA, or by UMAP if umap-learn is installed. Runs in a process for one file."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from midrib.server._console.table import FileError

Vectors = npt.NDArray[np.float32]

METHODS = ("pca", "umap")
_SEED = 0
# Directions beyond the two that are drawn, and rounds; both make the two more exact.
_MORE_DIRECTIONS = 8
_ROUNDS = 12
_MAX_UMAP_ROWS = 20_000


def project(method: str, vectors: Vectors) -> tuple[Vectors, list[float]]:
    """Return points [rows, 2] for vectors [rows, width], and the share of the variance along each axis.

    method: "pca" or "umap"; UMAP's axes have no such shares.
    Raises FileError for another method, for UMAP of too many rows, or if umap-learn is not installed.
    """
    if method == "pca":
        return pca(vectors)
    if method == "umap":
        return _umap(vectors), []
    raise FileError(f"the method is {method[:20]!r}, expected 'pca' or 'umap'")


def pca(vectors: Vectors) -> tuple[Vectors, list[float]]:
    """Return the first two principal components [rows, 2], and the share of the variance of each.

    Source: Halko, Martinsson, Tropp 2011, algorithm 4.4 (randomised subspace iteration).
    """
    centred = vectors - vectors.mean(axis=0)
    unit = float(np.abs(centred).max()) or 1.0
    centred /= unit  # neither the squares of large numbers nor those of small ones leave the range of float32
    directions = min(2 + _MORE_DIRECTIONS, *vectors.shape)
    basis = np.random.default_rng(_SEED).standard_normal((vectors.shape[1], directions), dtype=np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    left, sizes, right = np.linalg.svd(centred @ basis, full_matrices=False)
    axes = (right @ basis.T)[:2]
    # An axis may point either way: its largest number is positive, so that the same file gives the same map.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points = np.zeros((len(vectors), 2), np.float32)
    points[:, : len(axes)] = unit * (left[:, :2] * sizes[:2] * signs)[:, : len(axes)]
    total = float(np.square(centred, dtype=np.float64).sum())
    return points, [float(size) ** 2 / total if total else 0.0 for size in sizes[:2]]


def _umap(vectors: Vectors) -> Vectors:
    """Return UMAP's points [rows, 2]. Raises FileError without umap-learn, or for too many rows."""
    if len(vectors) > _MAX_UMAP_ROWS:
        raise FileError(f"the file has {len(vectors)} rows, UMAP draws at most {_MAX_UMAP_ROWS}: choose PCA")
    try:
        umap: Any = importlib.import_module("umap")  # optional, and without types
    except ImportError as error:
        raise FileError(
            f"umap-learn is not installed on this server ({error}): choose PCA, or pip install umap-learn"
        ) from error
    neighbours = min(15, max(2, len(vectors) - 1))
    model = umap.UMAP(n_neighbors=neighbours, random_state=_SEED, init="random" if len(vectors) < 5 else "spectral")
    return np.asarray(model.fit_transform(vectors), np.float32)
