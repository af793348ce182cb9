"""The Helm chart agrees with the server's settings: the manifests that build-support/check-deploy renders from it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types, nor are there any among our tools

from midrib.server._settings import Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy/helm/midrib"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
RENDERED = {path.stem: path for path in sorted((ROOT / "deploy/helm/rendered").glob("*.yaml"))}
SELECTOR = {"app.kubernetes.io/name": "midrib", "app.kubernetes.io/instance": "midrib"}


class Release:
    """The manifests of one file of values, by their kind."""

    def __init__(self, path: Path) -> None:
        self.manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(path.read_text())}
        self.workload = self.manifests.get("Deployment") or self.manifests["StatefulSet"]
        self.pod: Any = self.workload["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]
        # Kubernetes reads $$ as $.
        values = {variable["name"]: variable.get("value", "") for variable in self.container["env"]}
        self.variables = {name: value.replace("$$", "$") for name, value in values.items()}


@pytest.fixture(params=RENDERED.values(), ids=list(RENDERED))
def release(request: pytest.FixtureRequest) -> Release:
    return Release(request.param)


@pytest.fixture()
def settings(release: Release, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the server reads from its variables."""
    for name, value in release.variables.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_the_server_starts_with_the_variables_of_the_pod(release: Release) -> None:
    """The command of the container accepts them."""
    command = [sys.executable, "-m", "midrib.server.cli", *release.container["args"], "--print-config"]
    environment = {**os.environ, **release.variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, 'host = "0.0.0.0"' in done.stdout) == (0, True), done.stderr


def test_tables_and_fractions_arrive_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helm reads every number as a float; the arguments of a loader stay integers."""
    for name, value in Release(RENDERED["everything"]).variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    first, second = settings.backbones
    assert (first.dtype, first.aliases, second.arguments) == ("bfloat16", ("minilm",), {"num_features": 4})
    assert isinstance(second.arguments["num_features"], int)
    assert (settings.drain_grace_s, settings.max_in_flight_bytes) == (45.5, 268435456)


def test_strings_arrive_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither YAML nor Kubernetes reads them as anything else."""
    release = Release(RENDERED["strings"])
    monkeypatch.setenv("MIDRIB_BACKBONES", release.variables["MIDRIB_BACKBONES"])
    assert Settings().backbones[0].aliases == ("yes", "1", "a \"quoted\" 'name' of $(MIDRIB_HOST) and $$")
    assert release.container["image"] == "team/midrib@sha256:" + "0123456789" * 6 + "0123"
    assert [volume["secret"]["secretName"] for volume in release.pod["volumes"] if "secret" in volume] == ["123", "on"]


def test_a_release_scales_by_its_own_pods() -> None:
    """Another release in the namespace has other names."""
    [trigger] = Release(RENDERED["strings"]).manifests["ScaledObject"]["spec"]["triggers"]
    pattern = re.search(r'pod=~"([^"]+)"', trigger["metadata"]["query"])
    assert pattern is not None
    names = ["midrib-6d4cf56db6-x7k2p", "midrib-two-6d4cf56db6-x7k2p", "midrib-models-0-x"]
    assert [bool(re.fullmatch(pattern[1], name)) for name in names] == [True, False, False]


def test_a_pod_may_finish_accepted_work_before_it_is_killed(release: Release, settings: Settings) -> None:
    """Kubernetes counts preStop within the grace period."""
    _, seconds = release.container["lifecycle"]["preStop"]["exec"]["command"]
    assert release.pod["terminationGracePeriodSeconds"] > int(seconds) + settings.drain_grace_s


def test_ports_are_those_of_the_settings(release: Release, settings: Settings) -> None:
    """This holds for the container and the service."""
    ports = {"grpc": settings.port, "http": settings.http_port}
    assert {port["name"]: port["containerPort"] for port in release.container["ports"]} == ports
    assert {port["name"]: port["port"] for port in release.manifests["Service"]["spec"]["ports"]} == ports


def test_the_probes_speak_tls_if_the_server_does(release: Release, settings: Settings) -> None:
    """The kubelet's gRPC probe cannot."""
    secure = settings.tls_certificate is not None
    ready = {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTPS"}} if secure else {"grpc": {"port": 50051}}
    for name in ("startupProbe", "readinessProbe"):
        assert ready.items() <= release.container[name].items()
    assert release.container["livenessProbe"]["httpGet"].get("scheme") == ("HTTPS" if secure else None)


@pytest.mark.parametrize(("name", "scheme"), [("default", None), ("strings", "https")])
def test_prometheus_scrapes_by_https_if_the_server_has_tls(name: str, scheme: str | None) -> None:
    """By the annotations of the pod."""
    annotations = Release(RENDERED[name]).workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations.get("prometheus.io/scheme") == scheme


def test_the_operator_trusts_the_certificate_of_the_server() -> None:
    """It is in every TLS secret; a ca.crt is only in those of cert-manager."""
    (endpoint,) = Release(RENDERED["everything"]).manifests["ServiceMonitor"]["spec"]["endpoints"]
    trusted = {"ca": {"secret": {"name": "midrib-tls", "key": "tls.crt"}}, "serverName": "midrib"}
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", trusted)


def test_the_files_of_the_settings_are_mounted(release: Release, settings: Settings) -> None:
    """The folders of the tokens and of the certificate are volumes, read-only."""
    files = [file for file in (settings.tokens, settings.tls_certificate, settings.tls_key) if file is not None]
    mounts = {mount["mountPath"] for mount in release.container["volumeMounts"] if mount.get("readOnly")}
    assert {str(file.parent) for file in files} <= mounts


def test_every_mount_has_its_volume(release: Release) -> None:
    """A volume of the pod, or one of a StatefulSet's claims."""
    claims = [claim["metadata"] for claim in release.workload["spec"].get("volumeClaimTemplates", [])]
    volumes = {volume["name"] for volume in [*release.pod["volumes"], *claims]}
    assert {mount["name"] for mount in release.container["volumeMounts"]} == volumes


def test_the_pod_has_few_rights(release: Release) -> None:
    """Neither root nor capabilities nor a writable root, and the runtime's seccomp profile."""
    assert release.pod["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 10001}.items()
    assert release.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert release.pod["automountServiceAccountToken"] is False
    expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert release.container["securityContext"] == expected


def test_every_selector_selects_the_pods(release: Release) -> None:
    """Those of the service, the budget, the policy, the monitor and the spread."""
    selectors = [manifest["spec"]["selector"] for kind, manifest in release.manifests.items() if kind in _SELECTING]
    selectors += [constraint["labelSelector"] for constraint in release.pod.get("topologySpreadConstraints", [])]
    selectors += [policy["spec"]["podSelector"] for policy in _kind(release, "NetworkPolicy")]
    assert [selector.get("matchLabels", selector) for selector in selectors] == [SELECTOR] * len(selectors)
    assert release.workload["spec"]["template"]["metadata"]["labels"].items() >= SELECTOR.items()


_SELECTING = ("Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "ServiceMonitor")


def _kind(release: Release, kind: str) -> list[Any]:
    return [manifest for name, manifest in release.manifests.items() if name == kind]


def test_the_autoscalers_scale_the_workload() -> None:
    """The HorizontalPodAutoscaler of one release, KEDA's of the other."""
    everything, stateful = Release(RENDERED["everything"]), Release(RENDERED["stateful"])
    for release, kind in ((everything, "HorizontalPodAutoscaler"), (stateful, "ScaledObject")):
        target = release.manifests[kind]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (release.workload["kind"], release.workload["metadata"]["name"])
        assert "replicas" not in release.workload["spec"]


def test_the_schema_has_every_value() -> None:
    """The schema has no other values, so that one with a wrong name is refused."""
    assert SCHEMA["additionalProperties"] is False
    assert sorted(SCHEMA["properties"]) == sorted([*VALUES, "global"])
    for name, value in VALUES.items():
        if SCHEMA["properties"][name].get("additionalProperties") is False:
            assert sorted(SCHEMA["properties"][name]["properties"]) == sorted(value), name


def test_the_readme_explains_every_value() -> None:
    """Each has a place in the table."""
    page = (CHART / "README.md").read_text()
    assert [name for name in VALUES if f"`{name}`" not in page] == []


def test_the_schema_has_the_servers_settings() -> None:
    """After a change of the settings: `python build-support/chart_schema.py`."""
    spec = importlib.util.spec_from_file_location("chart_schema", ROOT / "build-support/chart_schema.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (CHART / "values.schema.json").read_text()
    assert script.updated(text) == text
