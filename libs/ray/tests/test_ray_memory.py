"""A table that is larger than the memory given to Ray flows through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import midrib.ray

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")

WIDTH = 4096
STORE_BYTES = 100 * 2**20  # of the fixture `cluster`
ROWS = 10 * STORE_BYTES // (4 * WIDTH)
ROWS_PER_BLOCK = 256


def wide(batch: dict[str, Any]) -> dict[str, Any]:
    """Return rows whose first number is their id."""
    rows = np.zeros((len(batch["id"]), WIDTH), np.float32)
    rows[:, 0] = batch["id"]
    return {"id": batch["id"], "x": rows}


def embed(rows: int, file: Path) -> tuple[int, int]:
    """Embed a table of this many rows. Return the sum of their ids, and the peak memory of the actor, bytes."""
    table = ray.data.range(rows, override_num_blocks=rows // ROWS_PER_BLOCK).map_batches(wide)
    backbone = f"test/embedding/weighing?file={file}"
    options: dict[str, Any] = {"keep": ["id"], "batch_size": ROWS_PER_BLOCK, "imports": ["weighing_backbone"]}
    batches = midrib.ray.embed(table, backbone, "x", **options).iter_batches(batch_size=None)
    total = sum(int(row[0]) for batch in batches for row in batch["embedding"])
    return total, 1024 * int(file.read_text())


@pytest.mark.usefixtures("cluster")
def test_a_table_of_ten_times_the_memory_of_ray(tmp_path: Path) -> None:
    """Every row is embedded once, and the actor needs no more memory than for a tenth of the table."""
    _, small_bytes = embed(ROWS // 10, tmp_path / "small")
    total, large_bytes = embed(ROWS, tmp_path / "large")
    assert total == ROWS * (ROWS - 1) // 2
    assert large_bytes < small_bytes + STORE_BYTES
