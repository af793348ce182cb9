"""The files of deploy/ agree with the server and with each other."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
import yaml  # type: ignore[import-untyped]  # has no types, nor are there any among our tools
from grpc_health.v1 import health_pb2, health_pb2_grpc

from midrib.backbones import BACKBONES
from midrib.remote import Client
from midrib.server import Settings, load_settings
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import serving
from midrib.wire import UnauthenticatedError

DEPLOY = Path(__file__).parents[1] / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
COMMAND = ["serve", "--config", "/etc/midrib/midrib.toml"]
ALL = health_pb2.HealthCheckRequest(service="")


@pytest.fixture()
def settings() -> Settings:
    return load_settings(DEPLOY / "midrib.toml")


@pytest.fixture()
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's names have capitals
    parser.read(DEPLOY / "midrib.service")
    return parser


@pytest.fixture()
def manifests() -> dict[str, Any]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


@pytest.fixture()
def pod(manifests: dict[str, Any]) -> Any:
    return manifests["Deployment"]["spec"]["template"]["spec"]


def test_the_settings_name_existing_backbones(settings: Settings) -> None:
    """The first start of a new server does not fail because of a name."""
    assert [backbone.name for backbone in settings.backbones if backbone.name not in BACKBONES] == []


def test_a_server_with_these_settings_needs_a_token_except_for_health(settings: Settings, tmp_path: Path) -> None:
    """As the README says. Another address and a small backbone let it start fast."""
    secret, entry = new_token("team-a", [Scope.READ, Scope.EMBED])
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry)
    unchanged = settings.model_dump(exclude={"backbones", "host", "port", "http_port", "tokens"})
    name = "template/classification/mlp-128"
    with serving({"name": name, "arguments": {"num_features": 4}}, **unchanged, tokens=tokens) as server:
        with Client(server.address, token=secret) as client:
            assert client.embed(name, np.ones((2, 4), np.float32)).shape == (2, 128)
        with Client(server.address) as stranger, pytest.raises(UnauthenticatedError, match="token"):
            stranger.embed(name, np.ones((2, 4), np.float32))
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert health.Check(ALL, timeout=10).status == health_pb2.HealthCheckResponse.SERVING


def test_systemd_and_kubernetes_wait_longer_than_the_server_drains(
    settings: Settings, unit: configparser.ConfigParser, pod: Any
) -> None:
    """Otherwise they would kill it with accepted work."""
    assert float(unit["Service"]["TimeoutStopSec"]) > settings.drain_grace_s
    assert pod["terminationGracePeriodSeconds"] > settings.drain_grace_s


def test_ports_are_those_of_the_settings(settings: Settings, manifests: dict[str, Any], pod: Any) -> None:
    """This holds for the container, the service, the probes and the image."""
    (container,) = pod["containers"]
    ports = {"grpc": settings.port, "http": settings.http_port}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    assert {port["name"]: port["port"] for port in manifests["Service"]["spec"]["ports"]} == ports
    assert container["startupProbe"]["grpc"] == container["readinessProbe"]["grpc"] == {"port": settings.port}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert f"EXPOSE {settings.port} {settings.http_port}\n" in DOCKERFILE.read_text()


def test_the_image_the_unit_and_the_pod_run_the_same_command(unit: configparser.ConfigParser, pod: Any) -> None:
    """Each reads the settings file from the same path."""
    (image_command,) = re.findall(r"^CMD (.*)", DOCKERFILE.read_text(), re.MULTILINE)
    assert pod["containers"][0]["args"] == json.loads(image_command) == COMMAND
    assert shlex.split(unit["Service"]["ExecStart"])[1:] == COMMAND


@pytest.fixture()
def tls(tmp_path: Path) -> dict[str, Any]:
    """The settings of a server with a certificate of a CA that nothing else trusts."""
    files = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    certificate = trustme.CA().issue_cert("midrib")
    certificate.cert_chain_pems[0].write_to_path(files["tls_certificate"])
    certificate.private_key_pem.write_to_path(files["tls_key"])
    return files


def healthy(port: int) -> bool:
    """Return whether the image's health check passes, with another port."""
    (command,) = re.findall(r"^HEALTHCHECK .*\n  CMD (.*)", DOCKERFILE.read_text(), re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    arguments = json.loads(command.replace("8080", str(port)))
    return subprocess.run(arguments, env={**os.environ, "PATH": path}, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_health_check_of_the_image_finds_a_ready_server(scheme: str, tls: dict[str, Any]) -> None:
    """With and without TLS; it fails once the server has stopped."""
    backbone = {"name": "template/classification/mlp-128", "arguments": {"num_features": 4}}
    with serving(backbone, http_port=0, **(tls if scheme == "https" else {})) as server:
        port = int(str(server.server.http_address).rpartition(":")[2])
        assert healthy(port)
    assert not healthy(port)


def test_the_image_is_built_on_a_fixed_base() -> None:
    """By its digest, which a build argument replaces, and with the Python that the pins are for."""
    text = DOCKERFILE.read_text()
    assert re.findall(r"^ARG BASE=python:(3\.11)\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.MULTILINE) == ["3.11"]
    assert re.findall("^FROM (.*)", text, re.MULTILINE) == ["${BASE}"]


def test_the_command_takes_these_arguments() -> None:
    """`midrib serve` accepts the command, here with the settings file of this folder."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", "--config", str(DEPLOY / "midrib.toml")]
    done = subprocess.run([*command, "--print-config"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "drain_grace_s = 30.0" in done.stdout) == (0, True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """The path of its program is replaced by one that exists on this machine."""
    text = (DEPLOY / "midrib.service").read_text().replace("/opt/midrib/bin/midrib", sys.executable)
    copy = tmp_path / "midrib.service"
    copy.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "midrib.service" not in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_manifests_with_the_settings() -> None:
    """The config map contains midrib.toml, and the deployment mounts it."""
    done = subprocess.run(["kubectl", "kustomize", DEPLOY], capture_output=True, text=True, timeout=60, check=False)
    built = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert built["ConfigMap"]["data"] == {"midrib.toml": (DEPLOY / "midrib.toml").read_text()}
    settings, _ = built["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert settings["projected"]["sources"][0]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
