"""Renders the Helm chart with each file of its ci folder: build-support/render_chart.py [--write].

It needs `helm-python-sdk`, which carries Helm's own code; build-support/check-deploy installs it. The manifests must be
those of deploy/helm/rendered, which the tests read; --write writes them there. Helm's linter must find nothing. The
command `helm` must agree if it is installed: check-deploy has that of Helm 3, the library is Helm 4.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python as helm  # type: ignore[import-not-found]  # pants: no-infer-dep - only check-deploy has it
import yaml  # type: ignore[import-untyped]  # it has no types

CHART = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "midrib"
RENDERED = CHART.parent / "rendered"
# The only finding that is accepted: the chart has no icon.
ACCEPTED = "icon is recommended"
# Values that must be refused, with a part of the error.
REFUSED = {
    "tokens: {secret: ''}": "settings.insecure=true",
    "settings: {tls_client_ca: /ca.crt}": "tls_client_ca",
    "settings: {max_batchrows: 3}": "max_batchrows",
    "kind: DaemonSet": "kind",
    "settings: {public_health: false}": "the kubelet's probes have no token",
    "settings: {backbones: []}": "settings.backbones is empty",
    "settings: {backbones: null}": "settings.backbones is empty",
    "settings: {tokens: /tokens.toml}": "tokens",
    "{replicas: -1}": "replicas",
    "replica: 3": "replica",
    "tokens: null": "missing property 'tokens'",
    "settings: {host: 127.0.0.1}": "use 0.0.0.0",
    "settings: {port: 8080}": "both 8080",
    "settings: {tls_key: /tls.key}": "name a secret in tls.secret",
    "image: {digest: latest}": "/image/digest",
    "podAnnotations: {number: 1}": "got number, want string",
    "podLabels: {app.kubernetes.io/name: other}": "use another label",
    "extraEnv: [{name: MIDRIB_PORT, value: '1'}]": "extraEnv sets MIDRIB_PORT a second time",
    "extraVolumes: [{name: tokens, emptyDir: {}}]": "choose another name",
    "extraVolumeMounts: [{name: none, mountPath: /x}]": "add it to extraVolumes",
    "extraVolumeMounts: [{name: scratch, mountPath: /tmp}]": "choose another path",
    "resources: {limits: {memory: 8GB}}": "/resources/limits/memory",
    "resources: {limits: {memory: 8ki}}": "/resources/limits/memory",
    "extraVolumeMounts: [{name: models, mountPath: /x}]": "add it to extraVolumes",
    "podDisruptionBudget: {maxUnavailable: 200%}": "/podDisruptionBudget/maxUnavailable",
    "autoscaling: {minReplicas: 9}": "autoscaling.minReplicas is 9",
    "serviceMonitor: {enabled: true}": "serviceMonitor.tokenSecret",
    "serviceMonitor: {labels: {app.kubernetes.io/name: x}}": "use another label",
    "tokens: {secret: My Secret}": "/tokens/secret",
    "image: {repository: a b}": "/image/repository",
    "replicas: 2147483648": "/replicas",
    "autoscaling: {scaleDownSeconds: 3601}": "/autoscaling/scaleDownSeconds",
    "topologySpread: {keys: [a, a]}": "/topologySpread/keys",
    "podLabels: {a b: x}": "at '/podLabels'",
    "podLabels: {team: a b}": "/podLabels/team",
    "extraEnv: [{name: A=B}]": "/extraEnv/0/name",
    "tolerations: [{operator: In}]": "/tolerations/0/operator",
    "resources: {limits: {cpu: -1}}": "/resources/limits/cpu",
    "resources: {limits: {memory: 1Gi}}": "resources.requests.memory is 4Gi, expected at most",
    "resources: {requests: {cpu: 1500m}, limits: {cpu: 1}}": "resources.requests.cpu is 1500m",
    "settings: {host: 127.0.0.2}": "use 0.0.0.0",
    "settings: {admin_port: 8080}": "settings.admin_port is 8080",
}
# Values that must be accepted: names and paths of volumes that the chart does not use then, and rare quantities.
ALLOWED = (
    "{extraVolumes: [{name: models, emptyDir: {}}], extraVolumeMounts: [{name: models, mountPath: /models}]}",
    "resources: {limits: {memory: 8388608Ki, cpu: 1e1}, requests: {cpu: .5}}",
    "resources: {limits: {memory: 4.3G, cpu: 2000m}, requests: {memory: 4Gi, cpu: 2}}",
    "tokens: {secret: team-a.tokens}",
)
# Names of releases, and the name of their Service: it begins with a letter, and has no dots and at most 63 characters.
NAMES = {"midrib-2": "midrib-2", "team.a": "team-a-midrib", "1st": "midrib-1st", "a" * 53: "a" * 52}


def rendered(chart: helm.Chart, values: dict[str, Any]) -> str:
    """Return the manifests of one release, with the name of the template before each, and version 0.0.0."""
    manifests = chart.render(values, name="midrib", namespace="inference")
    texts = {Path(name).name: text.strip() for name, text in sorted(manifests.items()) if name.endswith(".yaml")}
    joined = "".join(f"---\n# {name}\n{text}\n" for name, text in texts.items() if text)
    return joined.replace(chart.version, "0.0.0")  # so that a release does not change the files


def findings() -> list[str]:
    """Return the findings of Helm's linter for each file of values."""
    problems = []
    for path in sorted(CHART.glob("ci/*.yaml")):
        result = helm.lint(str(CHART), values=helm.values_from_yaml(path.read_text()), strict=True)
        texts = [f"{message['path']}: {message['error']}" for message in result["messages"]]
        problems += [f"{path.name}: {text}" for text in [*texts, *map(str, result["errors"])] if ACCEPTED not in text]
    return problems


def wrongly_accepted(chart: helm.Chart) -> list[str]:
    """Return the values that the chart should refuse and does not, or with another error."""
    wrong = []
    for text, expected in REFUSED.items():
        try:
            rendered(chart, helm.values_from_yaml(text))
            wrong.append(f"`{text}` is accepted")
        except helm.HelmError as error:
            if expected not in str(error):
                wrong.append(f"`{text}` is refused without {expected!r}: {error}")
    return wrong


def wrongly_refused(chart: helm.Chart) -> list[str]:
    """Return the values that the chart should accept and does not, with its error."""
    wrong = []
    for text in ALLOWED:
        try:
            rendered(chart, helm.values_from_yaml(text))
        except helm.HelmError as error:
            wrong.append(f"`{text}` is refused: {error}")
    return wrong


def wrong_names(chart: helm.Chart) -> list[str]:
    """Return the releases whose Service has another name than expected."""
    wrong = []
    for release, expected in NAMES.items():
        service = chart.render({}, name=release, namespace="inference")["midrib/templates/service.yaml"]
        if f"\n  name: {expected}\n" not in service:
            wrong.append(f"the Service of release {release} is not named {expected}: {service}")
    return wrong


def differences(command: str, chart: helm.Chart) -> list[str]:
    """Return what the command `helm` finds or renders that the library does not."""
    problems = []
    for path in sorted(CHART.glob("ci/*.yaml")):
        options = [str(CHART), "--namespace", "inference", "--values", str(path)]
        for arguments in (["lint", "--strict", *options], ["template", "midrib", *options]):
            done = subprocess.run([command, *arguments], capture_output=True, text=True)
            if done.returncode:
                problems.append(f"helm {arguments[0]} {path.name}: {done.stderr or done.stdout}")
        expected = rendered(chart, helm.values_from_yaml(path.read_text()))
        if resources(done.stdout.replace(chart.version, "0.0.0")) != resources(expected):
            problems.append(f"helm template renders other manifests for {path.name} than the library of Helm")
    return problems


def resources(text: str) -> list[Any]:
    """Return the resources of manifests, in the order of their kinds."""
    return sorted(filter(None, yaml.safe_load_all(text)), key=lambda resource: (resource["kind"], str(resource)))


def main() -> None:
    """Compare the manifests with those of deploy/helm/rendered, or write them."""
    problems = findings()
    command = shutil.which("helm")
    with helm.Chart.load(CHART) as chart:
        problems += differences(command, chart) if command else []
        problems += [*wrongly_accepted(chart), *wrongly_refused(chart), *wrong_names(chart)]
        for path in sorted(CHART.glob("ci/*.yaml")):
            text = rendered(chart, helm.values_from_yaml(path.read_text()))
            target = RENDERED / path.name
            if "--write" in sys.argv:
                target.write_text(text)
            elif not target.exists() or target.read_text() != text:
                problems.append(f"{target} is out of date: run build-support/check-deploy --write")
    if problems:
        raise SystemExit("\n".join(problems))
    also = ", and the command agrees" if command else ""
    print(f"Helm {helm.helm_sdk_version()}: the chart is linted and rendered{also}")


if __name__ == "__main__":
    main()
