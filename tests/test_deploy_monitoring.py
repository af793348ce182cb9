"""The dashboard and the alerts of deploy/monitoring, against the metrics of a real server and by promtool."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types, nor are there any among our tools
from torch import nn

from midrib.registry import Registry, TensorInput
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import serving

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
RULES = yaml.safe_load((FOLDER / "prometheus-alerts.yaml").read_text())["groups"][0]["rules"]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in RULES)]
METRIC = re.compile(r"\b(?:midrib|process)_[a-z_]+")
REGISTRY = Registry("for monitoring")


@REGISTRY(name="plain", namespace="test/embedding", input=TensorInput((2,)))
def load_plain() -> tuple[nn.Module, int]:
    return nn.Linear(2, 3), 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The metrics of a server with tokens."""
    token, entry = new_token("monitoring", [Scope.READ])
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(entry)
    with serving("plain", registry=REGISTRY, http_port=0, tokens=path) as running:
        connection = http.client.HTTPConnection(str(running.server.http_address), timeout=20)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        yield connection.getresponse().read().decode()
        connection.close()


@pytest.mark.parametrize("expression", [pytest.param(text, id=text) for text in EXPRESSIONS])
def test_every_metric_of_the_dashboard_and_the_alerts_is_exported(exported: str, expression: str) -> None:
    """A query for a metric that does not exist shows nothing, and warns of nothing."""
    families = set(re.findall(r"^# TYPE (\S+)", exported, re.MULTILINE))
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(expression)}
    assert names
    assert names <= families


def test_grafana_accepts_the_dashboard() -> None:
    """Each panel has another number and another place, and asks the chosen data source."""
    panels: list[Any] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    sources = {panel["datasource"]["uid"] for panel in panels} | {
        target["datasource"]["uid"] for panel in panels for target in panel["targets"]
    }
    assert sources == {"${datasource}"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "backbone"]


def test_every_alert_names_the_event_and_the_next_step() -> None:
    """Those who are woken by it read nothing else at first."""
    assert all(set(rule["annotations"]) == {"summary", "description"} for rule in RULES)
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["check", "rules", "prometheus-alerts.yaml"], id="check"),
        pytest.param(["test", "rules", "prometheus-alerts.test.yaml"], id="test"),
    ],
)
def test_prometheus_accepts_the_alerts(arguments: list[str]) -> None:
    """Its own tool checks them, with the series of prometheus-alerts.test.yaml."""
    subprocess.run(["promtool", *arguments], cwd=FOLDER, check=True, capture_output=True, timeout=60)


def test_every_alert_has_series_that_raise_it() -> None:
    """An alert that never fires is noticed only when it is missed."""
    groups = yaml.safe_load((FOLDER / "prometheus-alerts.test.yaml").read_text())["tests"]
    cases = [case for group in groups for case in group["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in RULES}
