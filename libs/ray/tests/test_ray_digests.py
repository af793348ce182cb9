"""The digests by which a resumed job knows finished rows: each value of a row counts, also inside an array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest

arrow = pytest.importorskip(
    "ray.data._internal.tensor_extensions.arrow", reason="needs Ray: build-support/ray makes an environment with it"
)

from midrib.ray._digests import row_digests  # noqa: E402 - it needs Ray

LENGTH = 2000  # NumPy shows a part of longer arrays than 1000


def tensors(changed: float) -> pa.Array:
    """Return two equal tensors but for one value."""
    rows = np.zeros((2, LENGTH), np.float32)
    rows[1, LENGTH // 2] = changed
    return arrow.ArrowTensorArray.from_numpy(rows)


def lists(changed: float) -> pa.Array:
    """Return two equal lists with a null, but for one value."""
    row = [None, *[0.0] * LENGTH]
    return pa.array([row, [*row[: LENGTH // 2], changed, *row[LENGTH // 2 + 1 :]]])


@pytest.mark.parametrize("make", [tensors, lists])
@pytest.mark.parametrize(("value", "copied"), [("text", ["array"]), ("array", ["text"])], ids=["copied", "embedded"])
@pytest.mark.parametrize(("changed", "digests"), [(0.0, 1), (1e-12, 2)], ids=["equal", "changed"])
def test_a_changed_value_of_an_array_changes_the_digest(
    make: Callable[[float], pa.Array], value: str, copied: list[str], changed: float, digests: int
) -> None:
    """Whether the array is embedded or copied."""
    table = pa.table({"text": ["a", "a"], "array": make(changed)})
    assert len(set(row_digests(table, value, copied))) == digests
