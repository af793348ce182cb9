"""Every Python example on the pages about tasks runs, from top to bottom."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from midrib.server.testing import serving
from tests.small_runs import IGNORED_HINTS

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "image/classification/efficientnet-lite0"

pytestmark = IGNORED_HINTS


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(BACKBONE, warm_up_s=0.0) as server:
        yield server.address


def run(page: str, **replaced: str) -> dict[str, Any]:
    """Run the examples of a page; return the names that they define.

    replaced: for each host name on the page (with _ for -), the address to use.
    """
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    for host, address in replaced.items():
        code = code.replace(host.replace("_", "-") + ":50051", address)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", ["libs/task/README.md", "docs/finetuning.md"])
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader would paste it."""
    monkeypatch.chdir(tmp_path)
    assert run(page)


def test_the_page_on_tasks_runs(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses a real server, and the cache has the hits and misses that the page shows."""
    monkeypatch.chdir(tmp_path)
    # Lightning calls deprecated functions of jsonargparse: those warnings do not concern the page.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "argv", ["train.py"])  # else the page's command line reads pytest's arguments
    names = run("docs/task.md", gpu_box=address)
    assert (names["cached"].cache.hits, names["cached"].cache.misses) == (456, 24)
    check_kit(names["TestGradingTask"](), tmp_path)


def check_kit(kit: Any, folder: Path) -> None:
    """Run the tests that the page's suite inherits, as pytest would."""
    kit.test_forward_gives_a_row_for_each_item()
    kit.test_fit_changes_the_head_and_lowers_no_guard()
    kit.test_every_stage_logs_its_loss()
    kit.test_predict_gives_a_row_for_each_item_with_every_output()
    kit.test_the_trainer_evaluates_and_predicts()
    kit.test_a_checkpoint_brings_it_back(folder)
    kit.test_a_copy_is_the_same_task()
    kit.test_it_exports_to_one_graph()
    kit.test_it_traces_to_torchscript()
