"""embedding-atlas opens an output of `midrib embed` by the command that docs/console.md shows.

The package is in a separate environment: `build-support/recipes --atlas` makes it and runs this file.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from midrib.remote import embed_files
from midrib.server.testing import serving

pytestmark = pytest.mark.external

PAGE = Path(__file__).resolve().parents[1] / "docs/console.md"
BACKBONE = "text/embedding/all-minilm-l6-v2"
SUBJECTS = {"food": ("rice", "trout", "lentils", "bread", "soup"), "sky": ("fog", "snow", "thunder", "rain", "wind")}
TEXTS = [(text, kind) for kind, words in SUBJECTS.items() for word in words for text in (word, f"a lot of {word}")]


@pytest.fixture(scope="module")
def atlas() -> str:
    """The program of embedding-atlas."""
    program = os.environ.get("MIDRIB_ATLAS")
    if program is None:
        pytest.skip("needs embedding-atlas: build-support/recipes --atlas installs it and runs this")
    return program


def write_vectors(folder: Path) -> None:
    """Write the vectors of TEXTS into vectors.parquet, with two columns of the input."""
    rows = [f"{index},{text},{kind}" for index, (text, kind) in enumerate(TEXTS)]
    (folder / "notes.csv").write_text("\n".join(["id,text,kind", *rows, ""]))
    with serving(BACKBONE, warm_up_s=0.0) as running:
        embed_files(
            running.url(BACKBONE), [folder / "notes.csv"], str(folder / "vectors.parquet"), keep=["text", "kind"]
        )


def test_an_output_opens_with_its_columns_vectors_and_neighbours(atlas: str, tmp_path: Path) -> None:
    """The documented command, which here writes the page and its data into a folder instead of serving them."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'midrib-remote[parquet]'")
    write_vectors(tmp_path)
    command = re.findall(r"^\$ embedding-atlas (.+)$", PAGE.read_text(), re.MULTILINE)[0].split()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([atlas, *command, "--export-application", "page"], cwd=tmp_path, env=offline, check=True)
    assert (tmp_path / "page/index.html").is_file()
    sent = parquet.read_table(tmp_path / "vectors.parquet")
    shown = parquet.read_table(tmp_path / "page/data/dataset.parquet")
    for column in ("id", "text", "kind", "embedding"):
        assert shown[column].to_pylist() == sent[column].to_pylist()
    for axis in ("projection_x", "projection_y"):
        assert np.isfinite(shown[axis].to_numpy()).all()
    nearest = [TEXTS[near["ids"][1]][1] for near in shown["__neighbors"].to_pylist()]
    assert nearest == [kind for _, kind in TEXTS]
