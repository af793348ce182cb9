"""What is set of the allocator, and what is left as it is."""

from __future__ import annotations

import pytest

from midrib.server._allocator import keep_freed_memory


@pytest.mark.parametrize(
    ("environment", "parameters"),
    [
        pytest.param({}, [-3, -1], id="both thresholds"),
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "4096"}, [-3], id="not what its user has set"),
    ],
)
def test_freed_memory_is_kept(environment: dict[str, str], parameters: list[int]) -> None:
    """Nothing is set twice, and a variable of glibc's wins."""
    calls: list[tuple[int, int]] = []
    keep_freed_memory(environment, lambda *call: calls.append(call) or 1)  # type: ignore[func-returns-value] # append
    assert [parameter for parameter, _ in calls] == parameters
