"""`midrib list` and `midrib describe`: names are found and never cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from midrib.backbones import BACKBONES
from midrib.server.testing import RunningServer, serving


def test_list_is_a_table_or_json(midrib: Any) -> None:
    """Both have the same entries."""
    table, listed = midrib("list", "mlp-*"), midrib("list", "mlp-*", "--json")
    keys = [entry["key"] for entry in json.loads(listed.stdout)]
    assert keys == ["template/classification/mlp-128", "template/classification/mlp-128-256"]
    assert all(key in table.stdout for key in keys)


def test_list_takes_wildcards_and_exclusions(midrib: Any) -> None:
    """An entry matches any of the wildcards, and none that is excluded."""
    listed = midrib("list", "mlp-*", "*minilm*", "--exclude", "*-256", "--json")
    keys = [entry["key"] for entry in json.loads(listed.stdout)]
    assert keys == ["template/classification/mlp-128", "text/embedding/all-minilm-l6-v2"]


def test_list_shows_the_backbones_of_a_server(midrib: Any, server: RunningServer) -> None:
    """The listing has the same form as that of this process."""
    listed = midrib("list", "*linear", "--server", f"grpc://{server.address}", "--json")
    assert [entry["num_features"] for entry in json.loads(listed.stdout)] == [3]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        pytest.param("no-such-*", "no backbone matches 'no-such-*': `midrib list` shows all names", id="nothing near"),
        pytest.param("*mlp128x*", "no backbone matches '*mlp128x*': did you mean 'mlp-128'", id="near"),
        pytest.param(
            "grpc://box:1/mlp-128",
            "is the URL of a server: write `midrib list 'mlp-128' --server grpc://box:1`",
            id="URL",
        ),
    ],
)
def test_list_of_nothing_fails_and_says_so(midrib: Any, pattern: str, message: str) -> None:
    """An empty table would not show whether the command worked; a script sees the exit status."""
    done = midrib("list", pattern)
    assert (done.returncode, done.stdout, message in done.stderr) == (1, "", True)


def test_list_of_nothing_is_an_empty_list_of_json(midrib: Any) -> None:
    """A program reads it like any other answer."""
    assert json.loads(midrib("list", "no-such-*", "--json").stdout) == []


def test_list_of_a_server_without_backbones_says_so(midrib: Any) -> None:
    """The error does not blame the pattern."""
    with serving(admin=True) as server:
        done = midrib("list", "--server", f"grpc://{server.address}")
    assert (done.returncode, "has no backbones" in done.stderr) == (1, True)


def test_list_tells_of_a_plugin_that_failed(tmp_path: Path) -> None:
    """The reason is on stderr, so the JSON on stdout stays valid."""
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


def test_describe_tells_where_a_backbone_comes_from(midrib: Any) -> None:
    """Signature, licence, file and line."""
    listener = json.loads(midrib("describe", "mlp-128", "--json").stdout)
    assert listener["num_features"] == 128
    assert "num_features: " in listener["signature"]
    assert "midrib" in listener["where"]


def test_describe_takes_arguments(midrib: Any) -> None:
    """In the form of serve, load and embed; a wrong one is refused without loading anything."""
    described = json.loads(midrib("describe", "mlp-128?num_features=4", "--json").stdout)
    assert (described["key"], described["arguments"]) == ("template/classification/mlp-128", {"num_features": 4})
    done = midrib("describe", "mlp-128?num_features=abc")
    assert (done.returncode, "got num_features='abc' of type str, expected int" in done.stderr) == (1, True)


def test_describe_of_an_unknown_name_has_near_ones(midrib: Any) -> None:
    """The error suggests the name that was meant."""
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
    assert done.stderr.splitlines()[-1] == "set()"


LONG = "a-name-that-is-longer-than-most-terminals-are-wide-and-that-a-user-copies-to-serve-it"


@pytest.fixture()
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder that registers a backbone with a long name."""
    (tmp_path / "my_listed.py").write_text(
        "from torch import nn\n"
        "from midrib.backbones import BACKBONES\n"
        "from midrib.registry import TensorInput\n"
        f"@BACKBONES(name='{LONG}', namespace='my/embedding', input=TensorInput((3,)), override=True)\n"
        "def load_mine(width: int = 2):\n"
        "    return nn.Linear(3, width), width\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_listed"
    sys.modules.pop("my_listed", None)
    BACKBONES.remove(f"my/embedding/{LONG}")


@pytest.mark.parametrize("columns", ["60", "100", "140"])
def test_names_are_never_cut(midrib: Any, my_module: str, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """In a terminal of any width: the other columns are wrapped, or are on the next line."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    listed = midrib("list", "*longer-than*", "mlp-128", "--import", my_module)
    assert f"my/embedding/{LONG}" in listed.stdout
    assert "template/classification/mlp-128" in listed.stdout


def test_describe_takes_names_of_imported_modules(midrib: Any, my_module: str) -> None:
    """`--import` registers them, as in serve."""
    fields = json.loads(midrib("describe", LONG, "--import", my_module, "--json").stdout)
    assert fields["key"] == f"my/embedding/{LONG}"


@pytest.mark.parametrize(
    "command", [["list"], ["describe", "x"], ["embed", "a.txt", "--backbone", "x", "--out", "o.npy"]]
)
def test_a_module_that_cannot_be_imported_is_one_sentence(
    midrib: Any, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the option and the reason."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = midrib(*command, "--import", "no_such_module")
    assert done.returncode == 1
    assert "midrib: --import no_such_module failed with ModuleNotFoundError: No module named" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("mlp-128", "float32 [any]", id="rows"),
        pytest.param(
            "dino_vits16", "image 224, or a tensor: float32 [3 x 224 x 224] or uint8 [3 x 224 x 224]", id="image"
        ),
        pytest.param("wordllama-256", "or a tensor: int64 [any]", id="text"),
    ],
)
def test_describe_shows_the_tensors_that_a_backbone_takes(midrib: Any, name: str, words: str) -> None:
    """It shows those that replace images and texts, pixels included."""
    assert words in midrib("describe", name).stdout


@pytest.mark.parametrize("form", ["url", "option"])
def test_describe_shows_a_backbone_of_a_server(midrib: Any, server: RunningServer, form: str) -> None:
    """The server is named by the URL, or by --server."""
    arguments = [server.url("test/embedding/linear")]
    if form == "option":
        arguments = ["test/embedding/linear", "--server", f"grpc://{server.address}"]
    fields = json.loads(midrib("describe", *arguments, "--json").stdout)
    assert (fields["num_features"], fields["state"], fields["input"]["shape"]) == (3, "ready", [2])
    text = midrib("describe", *arguments).stdout
    assert "float32 [2]" in text


@pytest.mark.parametrize("command", [["list"], ["describe", "mlp-128"]], ids=["list", "describe"])
@pytest.mark.parametrize("option", [["--token", "secret"], ["--timeout", "3"], ["--tls-roots", "roots.pem"]])
def test_options_of_servers_are_refused_without_one(midrib: Any, command: list[str], option: list[str]) -> None:
    """They would have no effect."""
    done = midrib(*command, *option)
    assert (done.returncode, f"{option[0]} has no effect: without --server" in done.stderr) == (1, True)
