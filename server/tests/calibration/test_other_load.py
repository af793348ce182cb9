"""Whether other processes used the processors during a measurement, by the counters of Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from midrib.server._calibration.other_load import OtherLoad

TICKS = os.sysconf("SC_CLK_TCK")
MINE = min(os.sched_getaffinity(0))


def line(name: str, *, used_s: float, idle_s: float, guest_s: float = 0) -> str:
    """Return a line of /proc/stat; the time of guests is a part of the first column."""
    columns = (used_s, 0, 0, idle_s, 0, 0, 0, 0, guest_s, 0)
    return " ".join([name, *(str(int(seconds * TICKS)) for seconds in columns)])


@pytest.fixture()
def stat(tmp_path: Path) -> Path:
    """Counters of one processor that this process may use, and of another one that it may not."""
    path = tmp_path / "stat"
    path.write_text(f"{line(f'cpu{MINE}', used_s=100, idle_s=900)}\n{line('cpu9999', used_s=0, idle_s=0)}\nintr 1 2\n")
    return path


@pytest.mark.parametrize(
    ("used_s", "own_s", "share", "busy"),
    [
        pytest.param(5, 0, 0.5, True, id="another process"),
        pytest.param(5, 5, 0.0, False, id="this process"),
        pytest.param(5, 4, 0.1, False, id="another process, little"),
        pytest.param(5, 7, 0.0, False, id="counters that disagree"),
    ],
)
def test_the_time_of_other_processes_counts(stat: Path, used_s: int, own_s: int, share: float, busy: bool) -> None:
    """The share is of ten seconds of the processor, without those of this process."""
    process_s = iter([50.0, *[50.0 + own_s] * 2])
    other_load = OtherLoad(stat, own_s=lambda: next(process_s))
    stat.write_text(
        f"{line(f'cpu{MINE}', used_s=100 + used_s, idle_s=910 - used_s, guest_s=3)}\n"
        f"{line('cpu9999', used_s=1000, idle_s=0)}\n"
    )
    assert other_load.share() == pytest.approx(share)
    assert other_load.busy() is busy


@pytest.mark.parametrize("text", [None, "", "cpu0 nonsense\n", "cpu0 1 2\n"], ids=["none", "empty", "words", "short"])
def test_without_counters_the_machine_counts_as_idle(tmp_path: Path, text: str | None) -> None:
    """A system without /proc measures once, at load."""
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    assert not OtherLoad(path).busy()


def test_the_counters_of_this_machine_are_read() -> None:
    """A share of the time since the object was made."""
    assert 0 <= OtherLoad().share() <= 1
