"""The examples of the README and of docs/ray.md, on a real Ray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
from pyarrow import parquet

from midrib.server.testing import RunningServer, serving

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("text/embedding/all-minilm-l6-v2") as running:
        yield running


@pytest.mark.parametrize("page", ["libs/ray/README.md", "docs/ray.md"])
@pytest.mark.usefixtures("cluster")
def test_the_example_of_a_page_runs(page: str, server: RunningServer, tmp_path: Path) -> None:
    """Only the addresses differ. The output has a row for each row of the input."""
    parquet.write_table(pa.table({"id": ["a", "b"], "text": ["first", "second"]}), tmp_path / "texts.parquet")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for written, actual in (("localhost:50051", server.address), ("s3://bucket", str(tmp_path))):
        code = code.replace(written, actual)
    exec(compile(code, page, "exec"), {})
    assert sorted(parquet.read_table(tmp_path / "embeddings").column("id").to_pylist()) == ["a", "b"]
