"""A 2-D map of embeddings, coloured by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_map(path: Path, rows: NDArray[Any], labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    """Save a scatter plot of the rows' two principal components.

    rows: [rows, num_features].  labels: [rows], an index into classes.
    Raises ImportError with the install line if matplotlib is not there.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the demo's picture needs matplotlib: pip install 'midrib-server[demo]'") from error
    centred = rows - rows.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T
    shares = scales[:2] ** 2 / (scales**2).sum()
    figure = Figure(figsize=(6, 5), layout="constrained")
    plot = figure.subplots()
    for label, name in enumerate(classes):
        chosen = labels == label
        plot.scatter(points[chosen, 0], points[chosen, 1], s=24, alpha=0.8, label=name)
    plot.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    plot.set_ylabel(f"second ({shares[1]:.0%})")
    plot.set_title(f"Embeddings of {len(rows)} test patches, {rows.shape[1]} features each")
    plot.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
