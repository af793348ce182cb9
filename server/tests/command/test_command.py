"""The command `midrib`, as a user runs it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from midrib.remote import Client
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.cli import main
from midrib.server.testing import RunningServer, serving

MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
MLP = "template/classification/mlp-128?num_features=4"


@dataclass(frozen=True)
class Done:
    """What a command that ended by itself left behind."""

    returncode: int
    stdout: str
    stderr: str


Midrib: TypeAlias = Callable[..., Done]


@pytest.fixture()
def midrib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Midrib:
    """Runs the command in this process: what is tested is what it says, and a process costs seconds."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["midrib", *arguments])
        with pytest.raises(SystemExit) as ended:  # - every command ends so, the status is the caller's to check
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


class Process:
    """A `midrib serve --json`; its events are read one by one."""

    def __init__(self, *arguments: str) -> None:
        command = [*MIDRIB, "serve", *arguments, "--port", "0", "--json"]
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

    def start(*arguments: str) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_serve_says_what_it_serves_and_stops_cleanly(serve: Any, number: signal.Signals) -> None:
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


def test_serve_reads_a_toml_file_and_imports_your_own_backbones(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of yours registers, the file names it, the server serves it."""
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


def test_sighup_takes_changed_tokens_over(serve: Any, tmp_path: Path) -> None:
    """Without a restart: the new one is taken, the old one is not."""
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
    # The signal has been handled once the new token is taken.
    assert any(connects(address, new) for _ in range(2000))
    assert not connects(address, old)


def connects(address: str, token: str) -> bool:
    try:
        with Client(address, token=token) as client:
            return len(client.list()) == 1
    except PermissionError:
        return False


def test_a_module_in_the_current_folder_is_found(tmp_path: Path) -> None:
    """`midrib serve --import mine`, where mine.py lies; an installed script does not look there by itself (so -P)."""
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
def test_serve_held_wrong_is_one_line_and_status_1(midrib: Midrib, arguments: list[str], words: str) -> None:
    """No traceback: what was wrong, and what to do."""
    done = midrib("serve", *arguments, "--port", "0")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.startswith("midrib: ")
    assert words in done.stderr


def test_a_taken_port_is_said(midrib: Midrib) -> None:
    """Two servers never share a port by accident."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = midrib("serve", MLP, "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_list_is_a_table_or_json(midrib: Midrib) -> None:
    """The same entries, for a person and for a program."""
    table, listed = midrib("list", "mlp-*"), midrib("list", "mlp-*", "--json")
    keys = [entry["key"] for entry in json.loads(listed.stdout)]
    assert keys == ["template/classification/mlp-128", "template/classification/mlp-128-256"]
    assert all(key in table.stdout for key in keys)


def test_list_takes_wildcards_and_what_to_leave_out(midrib: Midrib) -> None:
    """Any of several may match; what is excluded may not."""
    listed = midrib("list", "mlp-*", "*minilm*", "--exclude", "*-256", "--json")
    keys = [entry["key"] for entry in json.loads(listed.stdout)]
    assert keys == ["template/classification/mlp-128", "text/embedding/all-minilm-l6-v2"]


def test_list_shows_what_a_server_serves(midrib: Midrib, server: RunningServer) -> None:
    """The same table and JSON, of the backbones there."""
    listed = midrib("list", "*linear", "--server", f"grpc://{server.address}", "--json")
    assert [entry["num_features"] for entry in json.loads(listed.stdout)] == [3]


def test_list_of_nothing_says_so(midrib: Midrib) -> None:
    """An empty table would leave the reader wondering."""
    assert midrib("list", "no-such-*").stdout == "no backbone matches; `midrib list` shows all\n"
    assert json.loads(midrib("list", "no-such-*", "--json").stdout) == []


def test_list_tells_of_a_plugin_that_failed(tmp_path: Path) -> None:
    """What is missing from the table, and why, without spoiling the JSON of the rest."""
    information = tmp_path / "acme_thorn-0.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_thorn\nVersion: 0.3\n")
    (information / "entry_points.txt").write_text("[midrib.backbones]\nthorn = acme_thorn:add\n")
    (tmp_path / "acme_thorn.py").write_text("raise RuntimeError('built for another host')")
    code = "import sys; sys.argv = ['midrib', 'list', 'mlp-*', '--json']; from midrib.server.cli import main; main()"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, timeout=60)
    assert len(json.loads(done.stdout)) == 2
    assert "the plugin 'thorn' (acme_thorn:add, of acme_thorn 0.3) failed to load: RuntimeError: built" in done.stderr


def test_describe_tells_where_a_backbone_comes_from(midrib: Midrib) -> None:
    """Signature, licence, file and line."""
    listener = json.loads(midrib("describe", "mlp-128", "--json").stdout)
    assert listener["num_features"] == 128
    assert "num_features: " in listener["signature"]
    assert "midrib" in listener["where"]


def test_describe_of_an_unknown_name_has_near_ones(midrib: Midrib) -> None:
    """A misspelling is met with what was meant."""
    done = midrib("describe", "mlp-182")
    assert (done.returncode, "mlp-128" in done.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["list"], ["describe", "mlp-128"], ["--help"]], ids=" ".join)
def test_the_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """`midrib list` answers at once: neither torch nor grpc is imported."""
    code = (
        "import sys\n"
        f"sys.argv = ['midrib', *{arguments!r}]\n"
        "from midrib.server.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'grpc', 'PIL', 'transformers'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "set()"


def test_embed_turns_files_into_rows_with_ids(midrib: Midrib, tmp_path: Path) -> None:
    """With a registered backbone in this process; the revision goes with them."""
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    out = tmp_path / "embeddings.npy"
    done = midrib("embed", str(rows), "--backbone", MLP, "--out", str(out))
    assert (done.returncode, np.load(out).shape) == (0, (3, 128))
    assert "3 rows" in done.stdout


def test_embed_through_a_server_gives_the_servers_rows(midrib: Midrib, tmp_path: Path) -> None:
    """The same command, another backbone string."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}) as server, Client(server.address) as client:
        name = "template/classification/mlp-128"
        done = midrib("embed", str(rows), "--backbone", server.url(name), "--out", str(out))
        np.testing.assert_allclose(np.load(out), client.embed(name, np.load(rows)), rtol=1e-5)
    assert done.returncode == 0


def test_doctor_passes_a_healthy_server_and_names_what_is_wrong(midrib: Midrib) -> None:
    """Each check with its verdict; the exit status is 0 only where all are good."""
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}) as server:
        well = midrib("doctor", server.url("template/classification/mlp-128"))
        ill = midrib("doctor", server.url("template/classification/mlp-129"), "--json")
    verdicts = json.loads(ill.stdout)
    assert (well.returncode, "FAIL" in well.stdout) == (0, False)
    assert (ill.returncode, verdicts[-1]["ok"]) == (1, False)
    assert "mlp-128" in verdicts[-1]["detail"]


def test_the_help_shows_the_defaults(midrib: Midrib, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A log collector that ended costs its lines only."""
    process = serve(MLP)
    process.event()
    address = process.event()["address"]
    process.process.stdout.close()
    process.process.stdout = None  # nothing is left to read in the end
    rows = Client(address).embed("mlp-128", np.zeros((1, 4), np.float32))
    assert (rows.shape, process.end(signal.SIGTERM)) == ((1, 128), 0)
