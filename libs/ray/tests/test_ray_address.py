"""`midrib ray up --address`: a Ray that runs already, as `ray start` starts it on a laptop."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from libs.ray.tests.ray_program import RayProgram
from libs.ray.tests.serve_load import NAME, rows
from libs.ray.tests.serve_process import MIDRIB, RAY_PORTS, free_ports, ray_environment, write_settings
from midrib.ray._connect import connect
from midrib.remote import Client

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

TOKEN = "ab" * 32


@pytest.fixture(scope="module")
def variables() -> Iterator[Mapping[str, str]]:
    """The variables of a user whose home has a token for Ray."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short: it names sockets
        token = Path(folder, ".ray/auth_token")
        token.parent.mkdir()
        token.write_text(TOKEN)
        environment = {**ray_environment(free_ports(len(RAY_PORTS))), "HOME": folder, "RAY_TMPDIR": folder}
        yield {name: value for name, value in environment.items() if not name.startswith("RAY_A")}


@pytest.fixture(scope="module")
def address(variables: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray that `ray start` has started, which expects the token."""
    port, client_port = free_ports(2)
    start = ["start", "--head", "--block", "--num-cpus=2", "--object-store-memory=100000000", f"--port={port}"]
    start += [f"--ray-client-server-port={client_port}", "--include-dashboard=false", "--disable-usage-stats"]
    start += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
    program = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())"]
    process = RayProgram([*program, *start], tmp_path_factory.mktemp("ray") / "log", variables)
    try:
        process.wait_for("Ray runtime started")
        yield f"127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def port() -> int:
    """The port for clients, which a Ray keeps."""
    return free_ports(1)[0]


def up(folder: Path, port: int, address: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `midrib ray up`."""
    (http_port,) = free_ports(1)
    options = ["--insecure", "--address", address, "--cpus", "0.2", "--http-port", str(http_port)]
    command = [*MIDRIB, "ray", "up", str(write_settings(folder, {}, port=port)), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=dict(variables))


def test_a_cluster_with_another_token_is_an_error(address: str, variables: Mapping[str, str], tmp_path: Path) -> None:
    """It says how to set the token of the cluster."""
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "cd" * 32}
    done = up(tmp_path, 50051, address, {**variables, **wrong})
    assert done.returncode == 1
    assert f"cannot join a Ray cluster at {address}" in done.stderr
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_without_a_cluster_is_an_error_at_once(scheme: str) -> None:
    """Ray itself tries for minutes."""
    address = f"{scheme}127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ConnectionError, match=f"cannot reach a Ray cluster at {address} "):
        connect(address)


def test_a_ray_that_does_not_start_in_time_is_an_error_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception, which the command would print as a traceback."""
    import ray

    def time_out(**_options: Any) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(ConnectionError, match="cannot start a Ray on this machine .*timed out during startup"):
        connect("local")


@pytest.mark.parametrize("form", ["host and port", "auto"])
def test_a_running_ray_is_joined(
    form: str, address: str, port: int, variables: Mapping[str, str], tmp_path: Path
) -> None:
    """With the token of its user. The command returns, and clients are answered."""
    done = up(tmp_path, port, {"auto": "auto"}.get(form, address), variables)
    assert done.returncode == 0, done.stderr
    with Client(f"127.0.0.1:{port}", timeout=60) as client:
        assert client.embed(NAME, rows(3)).tolist() == (2 * rows(3)).tolist()


def test_another_port_than_that_of_the_running_serve_is_an_error(
    address: str, port: int, variables: Mapping[str, str], tmp_path: Path
) -> None:
    """Ray keeps the port of the first command: no client would be answered on another one."""
    assert up(tmp_path, port, address, variables).returncode == 0
    done = up(tmp_path, free_ports(1)[0], address, variables)
    assert done.returncode == 1
    assert f"Ray Serve listens on 127.0.0.1:{port} already" in done.stderr
