"""The Kubernetes manifests of deploy/ agree with the server's settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types, nor are there any among our tools

from midrib.server import Settings, load_settings

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART_DEFAULTS = DEPLOY / "helm/rendered/default.yaml"
RESOURCES = sorted(path for path in DEPLOY.glob("components/*/*.yaml") if path.name != "kustomization.yaml")


def documents(path: Path) -> dict[str, Any]:
    """Return the resources of a file by their kind."""
    return {resource["kind"]: resource for resource in yaml.safe_load_all(path.read_text())}


def deployed(path: Path) -> Any:
    """Return the pod of a file's Deployment."""
    return documents(path)["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture()
def settings() -> Settings:
    return load_settings(DEPLOY / "midrib.toml")


def test_a_pod_may_finish_accepted_work_before_it_is_killed(settings: Settings) -> None:
    """Kubernetes counts preStop within the grace period."""
    pod = documents(DEPLOY / "kubernetes.yaml")["Deployment"]["spec"]["template"]["spec"]
    _, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + settings.drain_grace_s


@pytest.mark.parametrize(
    "part",
    ["terminationGracePeriodSeconds", "automountServiceAccountToken", "securityContext"],
)
def test_the_pod_is_that_of_the_chart(part: str) -> None:
    """The manifests and the chart differ in how the server receives its settings, not in how it runs."""
    assert deployed(DEPLOY / "kubernetes.yaml")[part] == deployed(CHART_DEFAULTS)[part]


@pytest.mark.parametrize(
    "part",
    ["ports", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe", "resources", "securityContext"],
)
def test_the_container_is_that_of_the_chart(part: str) -> None:
    """Its probes, rights and resources."""
    (container,), (expected,) = (deployed(path)["containers"] for path in (DEPLOY / "kubernetes.yaml", CHART_DEFAULTS))
    assert container[part] == expected[part]


@pytest.mark.parametrize("path", [DEPLOY / "kubernetes.yaml", CHART_DEFAULTS], ids=["manifests", "chart"])
def test_the_home_of_the_server_can_be_written(path: Path) -> None:
    """Weights are downloaded to it. The root is read-only, and the user has no home there."""
    (container,) = deployed(path)["containers"]
    home = {variable["name"]: variable["value"] for variable in container["env"]}["HOME"]
    assert {"name": "scratch", "mountPath": home} in container["volumeMounts"]


@pytest.mark.parametrize("path", [DEPLOY / "kubernetes.yaml", CHART_DEFAULTS], ids=["manifests", "chart"])
def test_the_budget_lets_nodes_drain(path: Path) -> None:
    """One pod at a time, whatever the number of pods: `minAvailable: 1` would keep the only pod on its node."""
    budget = documents(path)["PodDisruptionBudget"]["spec"]
    assert (budget.get("maxUnavailable"), "minAvailable" in budget) == (1, False)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_prometheus_scrapes_by_https_if_the_server_has_tls(tmp_path: Path) -> None:
    """By the annotations, and by the ServiceMonitor."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    components = [f"deploy/components/{name}" for name in ("monitoring", "tls")]
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": ["deploy"], "components": components}))
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=True)
    built = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    (endpoint,) = built["ServiceMonitor"]["spec"]["endpoints"]
    # `kubectl create secret tls` writes no ca.crt. Go accepts a certificate that is itself among those it trusts.
    trusted = {"ca": {"secret": {"name": "midrib-tls", "key": "tls.crt"}}, "serverName": "midrib"}
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", trusted)
    annotations = built["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/scheme"], annotations["prometheus.io/port"]) == ("https", "8080")


@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.parent.name)
def test_every_component_is_for_the_deployment(path: Path) -> None:
    """Resources carry its label, so that `kubectl get all -l app=midrib` shows them."""
    (resource,) = documents(path).values()
    assert resource["metadata"]["labels"] == {"app": "midrib"}


def test_the_autoscaler_reads_a_metric_that_the_server_has() -> None:
    """Its name is that of the metrics page."""
    (metric,) = documents(DEPLOY / "components/autoscaling/autoscaler.yaml")["HorizontalPodAutoscaler"]["spec"][
        "metrics"
    ]
    (trigger,) = documents(DEPLOY / "components/keda/scaled-object.yaml")["ScaledObject"]["spec"]["triggers"]
    assert trigger["metadata"]["query"].startswith(f"sum({metric['pods']['metric']['name']}{{")
    assert f"`{metric['pods']['metric']['name']}`" in (DEPLOY.parent / "docs/metrics.md").read_text()


def test_the_network_policy_opens_the_ports_of_the_settings(settings: Settings) -> None:
    """Callers reach both ports, and the monitoring namespace reaches the HTTP port."""
    policy = documents(DEPLOY / "components/network-policy/network-policy.yaml")["NetworkPolicy"]
    opened = [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["ingress"]]
    assert opened == [{settings.port, settings.http_port}, {settings.http_port}]


@pytest.fixture()
def kserve() -> tuple[dict[str, Any], dict[str, str]]:
    """The container of the KServe runtime, and its variables with those of the service."""
    manifests = documents(DEPLOY / "kserve.yaml")
    (container,) = manifests["ServingRuntime"]["spec"]["containers"]
    variables = [*container["env"], *manifests["InferenceService"]["spec"]["predictor"]["model"]["env"]]
    return container, {variable["name"]: variable["value"] for variable in variables}


def test_kserve_starts_the_server_on_its_one_port(kserve: tuple[dict[str, Any], dict[str, str]]) -> None:
    """With the arguments of the runtime and the variables of both; HTTP is off."""
    container, variables = kserve
    command = [sys.executable, "-m", "midrib.server.cli", *container["args"], "--print-config"]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    settings = tomllib.loads(done.stdout)
    assert [port["containerPort"] for port in container["ports"]] == [settings["port"]]
    assert settings.get("http_port") is None
    assert container["readinessProbe"]["grpc"] == container["startupProbe"]["grpc"] == {"port": settings["port"]}


def test_kserve_gives_the_server_time_to_drain(kserve: tuple[dict[str, Any], dict[str, str]]) -> None:
    """Knative gives a pod Kubernetes' default of 30 seconds to end."""
    _, variables = kserve
    assert float(variables["MIDRIB_DRAIN_GRACE_S"]) < 30
