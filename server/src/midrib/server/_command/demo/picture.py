"""Draw 2-D maps of feature rows side by side: each image at its row's place, framed in its class's colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midrib.server._command.demo.textures import CLASSES, Patches

_COLOURS = ("#c2410c", "#65a30d", "#2563eb")  # brick, grass, gravel
_THUMBNAIL_ZOOM = 0.26


def save_maps(path: Path, maps: Mapping[str, NDArray[Any]], patches: Patches) -> None:
    """Save a picture with one map per title: the rows' two principal components.

    maps: [rows, features] by title, one row per patch.
    Raises ImportError, with the install line, if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError(
            f"the demo's picture needs matplotlib ({error}): pip install 'midrib-server[demo]'"
        ) from error
    figure = Figure(figsize=(5.6 * len(maps), 5.8), layout="constrained")
    for plot, (title, rows) in zip(np.atleast_1d(figure.subplots(1, len(maps))), maps.items(), strict=True):
        _draw(plot, rows, patches)
        plot.set_title(title, fontsize=11)
    legend = [Patch(color=colour, label=name) for colour, name in zip(_COLOURS, CLASSES, strict=True)]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(CLASSES), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw(plot: Any, rows: NDArray[Any], patches: Patches) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    points, shares = _principal_components(rows)
    for point, image, label in zip(points, patches.images, patches.labels, strict=True):
        frame = {"edgecolor": _COLOURS[label], "linewidth": 2.0, "boxstyle": "square,pad=0"}
        plot.add_artist(AnnotationBbox(OffsetImage(image, zoom=_THUMBNAIL_ZOOM), point, pad=0, bboxprops=frame))
    for axis, values, name, share in zip("xy", points.T, ("first", "second"), shares, strict=True):
        margin = 0.08 * float(np.ptp(values))
        getattr(plot, f"set_{axis}lim")(values.min() - margin, values.max() + margin)
        getattr(plot, f"set_{axis}label")(f"{name} principal component ({share:.0%} of the variance)")
    plot.tick_params(labelsize=8)
    plot.spines[["top", "right"]].set_visible(False)


def _principal_components(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows in the two directions of the largest variance, [rows, 2], and each direction's share of it."""
    centred = rows - rows.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, scales[:2] ** 2 / (scales**2).sum()
