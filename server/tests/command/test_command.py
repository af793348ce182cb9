"""`midrib serve` as a user runs it: real processes, real signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.remote import Client
from midrib.server._admission.tokens import Scope, new_token

MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
MLP = "template/classification/mlp-128?num_features=4"


class Process:
    """A `midrib serve --json`; its events are read one by one."""

    def __init__(self, *arguments: str, closed: str = "") -> None:
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *MIDRIB, "serve", *arguments, "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture()
def serve() -> Iterator[Any]:
    started: list[Process] = []

    def start(*arguments: str, **options: str) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.communicate()


FREEZE_COUNT = """
import gc
from torch import nn
from midrib.backbones import BACKBONES
from midrib.registry import TensorInput

class FreezeCount(nn.Module):
    def forward(self, rows):
        return rows.new_full((len(rows), 1), gc.get_freeze_count())

@BACKBONES(name="freeze-count", namespace="test/embedding", input=TensorInput((2,)))
def load_freeze_count():
    return FreezeCount(), 1
"""


def test_loaded_modules_are_not_collected_again(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visiting all objects of torch and of the backbones stopped the event loop for 300 ms repeatedly."""
    (tmp_path / "counting_backbones.py").write_text(FREEZE_COUNT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    process = serve("freeze-count", "--import", "counting_backbones")
    _, ready = process.event(), process.event()
    with Client(ready["address"]) as client:
        assert client.embed("freeze-count", np.zeros((1, 2), np.float32))[0, 0] > 100_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_serve_prints_its_state_and_stops_cleanly(serve: Any, number: signal.Signals) -> None:
    """Loading, ready with every URL, draining, stopped; exit status 0."""
    process = serve(MLP)
    loading, ready = process.event(), process.event()
    (served,) = ready["backbones"]
    assert (loading["event"], ready["event"]) == ("loading", "ready")
    assert served["url"] == f"grpc://{ready['address']}/template/classification/mlp-128"
    assert (served["num_features"], len(served["revision"])) == (128, 64)
    assert sorted(served["plan"]) == ["micro_batch_elements", "threads", "width"]
    assert process.end(number) == 0
    assert [process.event()["event"] for _ in range(2)] == ["draining", "stopped"]


def test_the_backbone_that_is_loading_is_named_on_stderr() -> None:
    """Of several; each again when it is ready. A load takes seconds to minutes."""
    other = "template/classification/mlp-128-256?num_features=4"
    process = subprocess.Popen(
        [*MIDRIB, "serve", MLP, other, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = iter(process.stdout or ())
    assert any(line.startswith("ready after") for line in lines)
    process.terminate()
    stderr = process.communicate(timeout=60)[1]
    lines_of_loading = [line for line in stderr.splitlines() if line.startswith(("loading", "ready"))]
    assert [re.sub(r"[\d.]+ s", "N s", line) for line in lines_of_loading] == [
        "loading 1 of 2: template/classification/mlp-128 ...",
        "ready   1 of 2: template/classification/mlp-128, after N s",
        "loading 2 of 2: template/classification/mlp-128-256 ...",
        "ready   2 of 2: template/classification/mlp-128-256, after N s",
    ]


def test_programs_get_no_lines_about_loading(serve: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """With --json the events on stdout are the whole output."""
    process = serve(MLP, "template/classification/mlp-128-256?num_features=4")
    assert [process.event()["event"] for _ in range(2)] == ["loading", "ready"]
    assert capfd.readouterr().err == ""


def test_serve_reads_a_toml_file_and_imports_the_modules_that_it_names(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names the module, which registers the backbone that is served."""
    (tmp_path / "my_backbones.py").write_text(
        "from torch import nn\n"
        "from midrib.backbones import BACKBONES\n"
        "from midrib.registry import TensorInput\n"
        "@BACKBONES(name='mine', namespace='my/embedding', input=TensorInput((3,)))\n"
        "def load_mine(width: int = 2):\n"
        "    return nn.Linear(3, width), width\n"
    )
    config = tmp_path / "midrib.toml"
    config.write_text('imports = ["my_backbones"]\nbackbones = [{name = "mine", arguments = {width = 5}}]\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    process = serve("--config", str(config))
    process.event()
    assert process.event()["backbones"][0]["num_features"] == 5


def test_sighup_applies_changed_tokens(serve: Any, tmp_path: Path) -> None:
    """Without a restart, the new token is accepted and the old one refused."""
    (old, first), (new, second) = (new_token("team", [Scope.READ, Scope.EMBED]) for _ in range(2))
    tokens, config = tmp_path / "tokens.toml", tmp_path / "midrib.toml"
    tokens.write_text(first)
    config.write_text(f"tokens = {json.dumps(str(tokens))}\n")
    process = serve(MLP, "--config", str(config))
    process.event()
    address = process.event()["address"]
    assert connects(address, old)
    tokens.write_text(second)
    process.process.send_signal(signal.SIGHUP)
    # The signal has been handled once the new token is accepted.
    assert any(connects(address, new) for _ in range(2000))
    assert not connects(address, old)


def connects(address: str, token: str) -> bool:
    try:
        with Client(address, token=token) as client:
            return len(client.list()) == 1
    except PermissionError:
        return False


def test_a_module_in_the_current_folder_is_found(tmp_path: Path) -> None:
    """An installed script does not look there (so -P), but `midrib serve --import mine` does."""
    (tmp_path / "mine.py").write_text("raise SystemExit('mine was imported')\n")
    command = [sys.executable, "-P", *MIDRIB[1:], "serve", MLP, "--import", "mine", "--port", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "mine was imported" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "nothing to serve: name a backbone", id="nothing to serve"),
        pytest.param(["mlp-12"], "mlp-128", id="unknown name, near ones named"),
        pytest.param(["mlp-128"], "num_features", id="missing argument"),
        pytest.param([MLP, "--host", "0.0.0.0"], "reachable from other machines", id="open address"),
        pytest.param([MLP, "--config", "missing.toml"], "no config file at missing.toml", id="missing config"),
        pytest.param([MLP, "--import", "no_such_module"], "no_such_module", id="missing module"),
        pytest.param([MLP, "--device", "cuda:7"], "cuda:7", id="missing device"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(midrib: Any, arguments: list[str], words: str) -> None:
    """The line names the mistake and the remedy, without a traceback."""
    done = midrib("serve", *arguments, "--port", "0")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.startswith("midrib: ")
    assert words in done.stderr


@pytest.mark.parametrize("option", ["--port", "--http-port"])
def test_a_port_in_use_is_refused(option: str) -> None:
    """Two servers never share a port by accident, and gRPC's lines about it are not shown."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = subprocess.run([*MIDRIB, "serve", MLP, option, port], capture_output=True, text=True, timeout=60)
    sentence = (
        f"midrib: cannot listen on 127.0.0.1:{port}: Address already in use: choose another port, or 0 for a free one\n"
    )
    assert (done.returncode, done.stderr) == (1, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["mlp-128"], "missing a required argument: 'num_features'", id="argument"),
        pytest.param(["mlp-182"], "'mlp-182' is not in the registry 'backbones'; did you mean", id="name"),
        pytest.param([MLP, "--import", "no_such"], "--import no_such failed with ModuleNotFoundError", id="module"),
        pytest.param(["dino_vits16?checkpoint=none.pth"], "no checkpoint at none.pth", id="checkpoint"),
    ],
)
def test_an_error_of_loading_is_printed_once(arguments: list[str], sentence: str) -> None:
    """The server's log does not repeat the sentence that the command ends with."""
    command = [*MIDRIB, "serve", *arguments, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("midrib: ")
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        pytest.param(
            "--tokens", "write the setting `tokens = ...` into a file for --config, or set MIDRIB_TOKENS", id="one"
        ),
        pytest.param("--tls-cert=x", "write the setting `tls_certificate = ...` into a file", id="its beginning"),
        pytest.param("--http", "did you mean --http-port?", id="an option's beginning"),
        pytest.param("--prot", "did you mean --port", id="a misspelt option"),
        pytest.param("-x", "did you mean one of those that --help shows?", id="nothing near"),
    ],
)
def test_a_setting_without_an_option_says_where_to_write_it(
    midrib: Any, monkeypatch: pytest.MonkeyPatch, option: str, words: str
) -> None:
    """`--tokens` and `--tls-certificate` are what a user tries first."""
    monkeypatch.setenv("COLUMNS", "200")
    done = midrib("serve", MLP, option)
    assert (done.returncode, f"{option.partition('=')[0]} is not an option: {words}" in done.stderr) == (2, True)


def test_an_unknown_scope_of_a_token_is_named(midrib: Any) -> None:
    """With the scopes that exist."""
    done = midrib("token", "team", "--scope", "write")
    assert (done.returncode, done.stderr) == (1, "midrib: scope 'write' is unknown, expected read, embed, admin\n")


def test_the_help_shows_the_defaults(midrib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets would be read as markup, and dropped."""
    monkeypatch.setenv("COLUMNS", "200")
    text = midrib("serve", "--help").stdout
    assert [
        default for default in ("127.0.0.1", "50051", "auto", "float32", "measured at load") if default not in text
    ] == []


def test_the_module_of_the_server_is_the_command() -> None:
    """`python -m midrib.server` works where the script is not on PATH."""
    done = subprocess.run(
        [sys.executable, "-m", "midrib.server.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("midrib ")


def test_a_server_whose_stdout_is_closed_goes_on(serve: Any) -> None:
    """A log collector that ended does not end the server."""
    process = serve(MLP)
    process.event()
    address = process.event()["address"]
    process.process.stdout.close()
    process.process.stdout = None  # nothing is left to read in the end
    rows = Client(address).embed("mlp-128", np.zeros((1, 4), np.float32))
    assert (rows.shape, process.end(signal.SIGTERM)) == ((1, 128), 0)


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_a_server_starts_without_standard_streams(serve: Any, closed: str) -> None:
    """Its workers need the number of stderr, and no socket gets it."""
    process = serve(MLP, closed=closed)
    process.event()
    rows = Client(process.event()["address"]).embed("mlp-128", np.zeros((1, 4), np.float32))
    assert (rows.shape, process.end(signal.SIGTERM)) == ((1, 128), 0)
