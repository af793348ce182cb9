"""The committed results of benchmarks/fleet are those of the client's present rules."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

FLEET = Path(__file__).parents[1] / "benchmarks/fleet"


def test_the_simulation_had_the_present_rules() -> None:
    """Changed rules of the client need another run of benchmarks/fleet/run.py, which writes the plots again."""
    rules = runpy.run_path(str(FLEET / "rules.py"))["rules"]()
    assert rules
    assert json.loads((FLEET / "results.json").read_text())["rules"] == rules


def test_the_plots_are_committed() -> None:
    """Beside the figures that they show."""
    assert (FLEET / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "| steady load |" in (FLEET / "results.md").read_text()
