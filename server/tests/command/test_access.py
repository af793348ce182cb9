"""The commands that call servers, with wrong TLS files, wrong tokens, and a wrong scheme."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer
from typer.testing import CliRunner

from midrib.remote._command.absent import add_absent_commands
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._command.server_process import server_process
from midrib.server.testing import serving

NAME = "template/classification/mlp-128"
MLP = {"name": "mlp-128", "arguments": {"num_features": 4}}


@pytest.fixture()
def certified(tmp_path: Path) -> dict[str, Any]:
    """Settings of a server with a certificate of an authority that nobody trusts."""
    path = tmp_path / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return {"tls_certificate": path, "tls_key": path}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "roots.pem is not a file: check the path", id="absent"),
        pytest.param("secret", "roots.pem holds no certificate, expected a PEM file: check the path", id="no PEM"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["list", "--server", "grpcs://127.0.0.1:9"], ["describe", "grpcs://127.0.0.1:9/x"], ["status", "127.0.0.1:9"]],
    ids=["list", "describe", "status"],
)
def test_a_wrong_tls_file_is_named(
    midrib: Any, tmp_path: Path, command: list[str], content: str | None, words: str
) -> None:
    """Before anything connects: the error of a connection would blame the server."""
    roots = tmp_path / "roots.pem"
    if content is not None:
        roots.write_text(content)
    done = midrib(*command, "--tls-roots", str(roots))
    assert done.returncode == 1
    assert f"--tls-roots {tmp_path}" in done.stderr
    assert words in done.stderr


def test_roots_may_come_from_a_pipe(tmp_path: Path) -> None:
    """The shell makes one for `--tls-roots <(...)`; a check of its content would leave nothing to the connection."""
    authority = trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    read_end, write_end = os.pipe()
    os.write(write_end, authority.cert_pem.bytes())
    os.close(write_end)
    with serving(MLP, tls_certificate=path, tls_key=path) as running:
        command = [sys.executable, "-m", "midrib.remote", "list", "--server", f"grpcs://{running.address}"]
        roots = ["--tls-roots", f"/dev/fd/{read_end}"]
        done = subprocess.run([*command, *roots], capture_output=True, text=True, pass_fds=[read_end], check=False)
    os.close(read_end)
    assert (done.returncode, "mlp-128" in done.stdout) == (0, True), done.stderr


def test_an_untrusted_certificate_is_one_sentence(certified: dict[str, Any]) -> None:
    """gRPC's C++ code writes a line for each attempt to connect unless its variable says no."""
    with serving(MLP, **certified) as running:
        command = [sys.executable, "-m", "midrib.remote", "list", "--server", f"grpcs://{running.address}"]
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    [sentence] = [line for line in done.stderr.splitlines() if not line.startswith("asking ")]
    assert "is not signed by the authorities trusted here" in sentence
    assert "--tls-roots" in sentence


@pytest.mark.usefixtures("front")
def test_a_server_does_not_log_failed_handshakes(certified: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """Anyone on the network could fill the log with them."""
    files = {f"MIDRIB_{name.upper()}": str(path) for name, path in certified.items()}
    with server_process(f"{NAME}?num_features=4", **files) as process:
        host, _, port = process.url.removeprefix("grpcs://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            connection.recv(100)
    assert capfd.readouterr().err == ""


def test_a_command_without_a_token_says_how_to_pass_one(midrib: Any, tmp_path: Path) -> None:
    """By its option or its variable, not by the header of the protocol alone."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(new_token("team", [Scope.READ])[1])
    with serving(MLP, tokens=tokens) as running:
        done = midrib("list", "--server", f"grpc://{running.address}")
    assert done.returncode == 1
    assert "--token, or of MIDRIB_TOKEN" in done.stderr


def test_status_names_the_scheme_of_a_port_with_tls(midrib: Any, certified: dict[str, Any]) -> None:
    """The port closes plain connections without a word."""
    with serving(MLP, http_port=0, **certified) as running:
        done = midrib("status", f"http://{running.server.http_address}")
    assert done.returncode == 1
    assert "write https:// if it has a certificate" in done.stderr


def test_serve_announces_the_schemes_of_tls(certified: dict[str, Any], tmp_path: Path) -> None:
    """The line can be copied into a client."""
    path = tmp_path / "midrib.toml"
    path.write_text("".join(f"{key} = {json.dumps(str(value))}\n" for key, value in certified.items()))
    command = [sys.executable, "-m", "midrib.server", "serve", NAME + "?num_features=4", "--config", str(path)]
    process = subprocess.Popen([*command, "--port", "0", "--http-port", "0"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.terminate()
    assert " and https://127.0.0.1:" in lines[0]
    assert lines[1].startswith("  grpcs://127.0.0.1:")


@pytest.mark.parametrize("option", [["--token", "secret"], ["--timeout", "3"]])
def test_search_asks_for_the_server_of_its_options(midrib: Any, option: list[str]) -> None:
    """The output names its backbone without a server."""
    done = midrib("search", "out.npy", "a cat", *option)
    assert done.returncode == 1
    assert f"{option[0]} has no effect: name the server too, by --backbone grpc://host:port/NAME" in done.stderr


@pytest.mark.parametrize(
    ("name", "package"),
    [("serve", "midrib-server"), ("train", "'midrib-server[train]'"), ("demo", "'midrib-server[demo]'")],
)
def test_a_command_of_another_package_names_it(name: str, package: str) -> None:
    """In a `midrib` of the client's wheel."""
    app = typer.Typer()
    add_absent_commands(app)
    done = CliRunner().invoke(app, [name, "some", "--port", "1"])
    assert str(done.exception) == f"`midrib {name}` is a command of another package: pip install {package}"
