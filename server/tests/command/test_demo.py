"""The data and the picture of `midrib demo`; .ci/run runs the demo."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from midrib.server._command.demo.picture import save_maps
from midrib.server._command.demo.textures import CLASSES, PATCH, load_textures
from midrib.server.cli import app


def test_no_test_patch_is_in_the_training_data() -> None:
    """The photographs are cut in halves, not shuffled; both halves have the same number of patches per class."""
    train, test = load_textures()
    in_training, in_test = ({patch.tobytes() for patch in patches.images} for patches in (train, test))
    assert train.images.shape == test.images.shape == (96, PATCH, PATCH, 3)
    assert np.bincount(train.labels).tolist() == np.bincount(test.labels).tolist() == [32] * len(CLASSES)
    assert in_training & in_test == set()


def width(path: Path, **maps: NDArray[np.float32]) -> int:
    """Return the width of a picture of the test patches, in pixels."""
    _, patches = load_textures()
    save_maps(path, maps, patches)
    with Image.open(path) as picture:
        return picture.width


def test_the_picture_has_a_map_for_each_title(tmp_path: Path) -> None:
    """The maps are side by side; the folder is created if it does not exist."""
    rows = load_textures()[1].images.reshape(96, -1).astype(np.float32)
    one_map = width(tmp_path / "new" / "one.png", pixels=rows)
    assert width(tmp_path / "new" / "two.png", pixels=rows, some=rows[:, :9]) == 2 * one_map


def test_without_matplotlib_the_error_has_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib comes with an extra."""
    _, patches = load_textures()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'midrib-server\[demo\]'"):
        save_maps(tmp_path / "map.png", {}, patches)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        pytest.param(".", ". is a folder, expected the path of a file", id="folder"),
        pytest.param("/proc/x.png", "/proc cannot be written to .*pass another --out", id="not writable"),
    ],
)
def test_the_path_of_the_picture_is_checked_first(out: str, message: str) -> None:
    """The demo runs for a minute before it saves the picture."""
    with pytest.raises(OSError, match=message):
        CliRunner().invoke(app, ["demo", "--out", out], catch_exceptions=False, standalone_mode=False)
