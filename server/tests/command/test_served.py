"""`midrib load` and `midrib unload`, and names with arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from midrib.server.testing import RunningServer, serving

NAME = "template/classification/mlp-128"
OTHER = "template/classification/mlp-128-256"


@pytest.fixture(scope="module")
def admin_server() -> Iterator[RunningServer]:
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}, admin=True) as server:
        yield server


def test_a_backbone_is_loaded_and_unloaded(midrib: Any, admin_server: RunningServer) -> None:
    """With the loader's arguments; each command reports its result."""
    server = f"grpc://{admin_server.address}"
    loaded = midrib("load", "mlp-128-256?num_features=5", "--server", server, "--json")
    assert f"loading mlp-128-256 at {server} ..." in loaded.stderr
    fields = json.loads(loaded.stdout)
    assert (fields["name"], fields["num_features"], fields["input"]["shape"]) == (OTHER, 256, [5])
    assert midrib("unload", OTHER, "--server", server).stdout == f"unloaded {OTHER}\n"
    listed = json.loads(midrib("list", "--server", server, "--json").stdout)
    assert [entry["key"] for entry in listed] == [NAME]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["load", "mlp-128?widht=5"], "has no argument 'widht'", id="wrong argument"),
        pytest.param(["load", "mlp-182?num_features=5"], "mlp-128", id="unknown name"),
        pytest.param(["load", "?num_features=5"], "names no backbone", id="no name"),
        pytest.param(["load", "mlp-128?num_features"], "has an argument without a value", id="no value"),
        pytest.param(["load", "mlp-128?num_features=5&num_features=6"], "'num_features' twice", id="given twice"),
        pytest.param(["unload", "mlp-182"], f"did you mean {NAME}?", id="not served"),
        pytest.param(["load", "mlp-128-256?num_features=-8"], "cannot be built with num_features=-8", id="bad value"),
    ],
)
def test_an_error_of_loading_is_one_sentence(
    midrib: Any, admin_server: RunningServer, arguments: list[str], words: str
) -> None:
    """There is no traceback, and the exit status is 1."""
    done = midrib(*arguments, "--server", f"grpc://{admin_server.address}")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1].startswith("midrib: ")
    assert words in done.stderr


@pytest.mark.parametrize("command", [["serve"], ["bench", "--seconds", "0.1"]], ids=["serve", "bench"])
@pytest.mark.parametrize("name", ["mlp-128?num_features=4&typo=1", "mlp-128?=4"], ids=["misspelt", "without a name"])
def test_wrong_arguments_are_one_sentence_from_every_process(command: list[str], name: str) -> None:
    """The logs of the server and of its workers have one sentence too."""
    started = [sys.executable, "-m", "midrib.server.cli", command[0], name, *command[1:]]
    done = subprocess.run(started, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "its loader takes (num_features" in done.stderr


@pytest.mark.parametrize(
    "command", ["list", "describe", "load", "unload", "embed", "search", "doctor", "bench", "status"]
)
def test_every_command_that_calls_a_server_has_the_same_options(
    midrib: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A token, TLS, a timeout, JSON."""
    monkeypatch.setenv("COLUMNS", "200")
    text = midrib(command, "--help").stdout
    missing = [
        option
        for option in ("--token", "--tls-roots", "--tls-certificate", "--timeout", "--json")
        if option not in text
    ]
    assert missing == []


def test_the_client_alone_has_no_commands_of_a_server() -> None:
    """Without midrib-server and torch, the others work; in-process ones name the package to install."""
    code = (
        "import sys\n"
        "for name in ('midrib.server', 'midrib.backbones', 'torch'): sys.modules[name] = None\n"
        "from midrib.remote.cli import application, run\n"
        "sys.argv = ['midrib', *sys.argv[1:]]\n"
        "run(application())\n"
    )

    def midrib_without_server(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    assert "serve" not in midrib_without_server("--help").split()
    assert "name a server with --server" in midrib_without_server("list")
    assert "pip install midrib-server" in midrib_without_server("bench", "mlp-128")
