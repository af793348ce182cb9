"""What Kubernetes' API server refuses although its schemas allow it: names, labels, quantities and ranges.

The rules are those of k8s.io/apimachinery/pkg/util/validation, and of the validation of pods, autoscalers and services.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_SERVICE: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_QUALIFIED: Final = re.compile(rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VARIABLE: Final = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_QUANTITY: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([EPTGMK]i|[EPTGMkmun]|[eE][+-]?[0-9]+)?")
_IMAGE: Final = re.compile(
    r"[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_NAMES: Final = {"secretName", "claimName", "storageClassName", "priorityClassName", "runtimeClassName"}
_INT32: Final = {"replicas", "failureThreshold", "maxReplicas", "minReplicas", "maxReplicaCount", "minReplicaCount"}
_MOST: Final = {"stabilizationWindowSeconds": 3600, "containerPort": 65535, "port": 65535}


def problems(manifest: Any) -> list[str]:
    """Return the reasons for which the API server would refuse a manifest."""
    found = [*_metadata(manifest, "")]
    found += _walk(manifest, manifest["kind"])
    if manifest["kind"] == "Service" and not _SERVICE.fullmatch(manifest["metadata"]["name"]):
        found.append(f"the Service's name is {manifest['metadata']['name']!r}")
    return found


def _metadata(node: Any, path: str) -> Iterator[str]:
    """Yield the wrong names, labels and annotations of a resource or a template."""
    metadata = node.get("metadata", {})
    if not _NAME.fullmatch(metadata.get("name", "x")):
        yield f"{path}.name is {metadata['name']!r}"
    yield from (f"{path}.labels has {problem}" for problem in _of_labels(metadata.get("labels")))
    for name, value in (metadata.get("annotations") or {}).items():
        if not (_QUALIFIED.fullmatch(str(name).lower()) and isinstance(value, str)):
            yield f"{path}.annotations has {name!r}: {value!r}"


def _walk(node: Any, path: str) -> Iterator[str]:
    """Yield the problems of a value and of everything in it.  path: of the value, in the messages."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _walk(item, f"{path}[{index}]")
    if not isinstance(node, dict):
        return
    if "template" in node:
        yield from _metadata(node["template"], f"{path}.template")
    for name, value in node.items():
        yield from _field(str(name), value, f"{path}.{name}")
        yield from _walk(value, f"{path}.{name}")


def _field(name: str, value: Any, path: str) -> Iterator[str]:
    """Yield the problems of one field."""
    rule = _RULES.get(name)
    if rule is not None:
        yield from (f"{path}: {problem}" for problem in rule(value))
    elif name in _NAMES | {"serviceAccountName"} and not (isinstance(value, str) and _NAME.fullmatch(value)):
        yield f"{path} is {value!r}, no name"
    elif (name in _INT32 or name in _MOST) and isinstance(value, int) and not 0 <= value <= _MOST.get(name, 2**31 - 1):
        yield f"{path} is {value}, out of range"


def _of_pod(pod: Any) -> Iterator[str]:
    """Yield the problems of a pod's names, which must be unique and refer to each other."""
    if not isinstance(pod, dict) or "containers" not in pod:
        return
    volumes = [volume.get("name") for volume in pod.get("volumes", [])]
    yield from (f"volume {name!r}" for name in volumes if not re.fullmatch(_LABEL, str(name)))
    yield from (f"two volumes {name!r}" for name in set(volumes) if volumes.count(name) > 1)
    keys = [constraint["topologyKey"] for constraint in pod.get("topologySpreadConstraints", [])]
    yield from (f"topologyKey {key!r}" for key in keys if not _QUALIFIED.fullmatch(key) or keys.count(key) > 1)
    for container in pod["containers"]:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        yield from (f"mountPath {path!r}" for path in paths if ":" in path or paths.count(path) > 1)


def _of_variables(variables: Any) -> Iterator[str]:
    names = [variable["name"] for variable in variables]
    yield from (f"variable {name!r}" for name in names if not _VARIABLE.fullmatch(name) or names.count(name) > 1)


def _of_resources(resources: Any) -> Iterator[str]:
    if not isinstance(resources, dict):
        return
    for kind in ("requests", "limits"):
        for name, value in (resources.get(kind) or {}).items():
            if not (_QUALIFIED.fullmatch(name) and _QUANTITY.fullmatch(str(value))):
                yield f"{kind} has {name!r}: {value!r}"
    for name in set(resources.get("requests") or {}) & set(resources.get("limits") or {}):
        if quantity(resources["requests"][name]) > quantity(resources["limits"][name]):
            yield f"requests more {name} than its limit"


def quantity(value: Any) -> float:
    """Return the number of a quantity such as 8Gi, .5 or 500m; 0 for anything else."""
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(value))
    powers = {suffix: 1024.0**power for power, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
    decimal = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
    powers |= {suffix: 1000.0**power for power, suffix in enumerate(decimal, -3)}
    return float(match[1]) * powers.get(match[2], 0.0) if match else 0.0


def _of_labels(labels: Any) -> Iterator[str]:
    for name, value in (labels or {}).items():
        if not (_QUALIFIED.fullmatch(str(name)) and isinstance(value, str) and _VALUE.fullmatch(value)):
            yield f"{name!r}: {value!r}"


def _of_image(image: Any) -> Iterator[str]:
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        yield f"{image!r} is no image"


def _of_secret_key(secret: Any) -> Iterator[str]:
    if isinstance(secret, dict) and "key" in secret and not _KEY.fullmatch(str(secret["key"])):
        yield f"{secret['key']!r} is no key of a secret"
    if isinstance(secret, dict) and "name" in secret and not _NAME.fullmatch(str(secret["name"])):
        yield f"{secret['name']!r} is no name of a secret"


_RULES: Final = {
    "env": _of_variables,
    "image": _of_image,
    "matchLabels": _of_labels,
    "nodeSelector": _of_labels,
    "resources": _of_resources,
    "secret": _of_secret_key,
    "credentials": _of_secret_key,
    "spec": _of_pod,
}
