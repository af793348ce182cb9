"""`midrib embed`, in process and through a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midrib.remote import Client
from midrib.server.testing import serving

MLP = "template/classification/mlp-128?num_features=4"


def test_embed_turns_files_into_rows_with_ids(midrib: Any, tmp_path: Path) -> None:
    """With a registered backbone in this process; the revision goes with them."""
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    out = tmp_path / "embeddings.npy"
    done = midrib("embed", str(rows), "--backbone", MLP, "--out", str(out))
    assert (done.returncode, np.load(out).shape) == (0, (3, 128))
    assert "3 rows" in done.stdout


def test_embed_refuses_to_replace_an_output_of_other_inputs(midrib: Any, tmp_path: Path) -> None:
    """--overwrite replaces it, and then the same command may be run again."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    out.write_bytes(b"precious")
    arguments = ["embed", str(rows), "--backbone", MLP, "--out", str(out)]
    done = midrib(*arguments)
    assert (done.returncode, out.read_bytes()) == (1, b"precious")
    assert (
        f"{out} exists and was made from other inputs: pass --overwrite to replace it, or another --out" in done.stderr
    )
    assert (midrib(*arguments, "--overwrite").returncode, np.load(out).shape) == (0, (3, 128))
    assert midrib(*arguments).returncode == 0
    np.save(rows, np.ones((4, 4), np.float32))
    assert (midrib(*arguments).returncode, np.load(out).shape) == (1, (3, 128))


def test_a_folder_in_place_of_the_output_is_not_offered_to_be_replaced(midrib: Any, tmp_path: Path) -> None:
    """`--overwrite` would not help."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    out.mkdir()
    done = midrib("embed", str(rows), "--backbone", MLP, "--out", str(out))
    assert f"output {out} is a folder: name a file in it" in done.stderr
    assert (done.returncode, "--overwrite" in done.stderr) == (1, False)


def test_embed_refuses_to_replace_an_output_of_another_backbone(midrib: Any, tmp_path: Path) -> None:
    """The inputs are the same; --overwrite replaces it."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    assert midrib("embed", str(rows), "--backbone", MLP, "--out", str(out)).returncode == 0
    other = ["embed", str(rows), "--backbone", MLP.replace("128", "128-256"), "--out", str(out)]
    done = midrib(*other)
    assert (done.returncode, np.load(out).shape) == (1, (3, 128))
    assert f"{out} exists and was made by template/classification/mlp-128: pass --overwrite" in done.stderr
    assert (midrib(*other, "--overwrite").returncode, np.load(out).shape) == (0, (3, 256))


def test_a_failed_run_names_the_folder_of_its_chunks(midrib: Any, tmp_path: Path) -> None:
    """The next run resumes from the finished chunks."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    (tmp_path / "embeddings.npy.parts").mkdir()
    (tmp_path / "embeddings.npy.parts" / "a chunk of an earlier run").touch()
    done = midrib("embed", str(rows), "--backbone", "template/classification/mlp-12", "--out", str(out))
    assert done.returncode == 1
    assert f"{out}.parts holds the finished chunks: run the same command again to resume, or delete it" in done.stderr


def test_an_array_of_another_shape_is_a_bad_item(midrib: Any, tmp_path: Path) -> None:
    """With a backbone in this process as through a server: the other rows are embedded."""
    np.save(tmp_path / "good.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "bad.npy", np.ones((2, 5), np.float32))
    inputs = [str(tmp_path / name) for name in ("good.npy", "bad.npy")]
    done = midrib("embed", *inputs, "--backbone", MLP, "--out", str(tmp_path / "out.npy"))
    assert (done.returncode, len(np.load(tmp_path / "out.npy"))) == (0, 3)
    assert "the array has shape [5], backbone" in (tmp_path / "out.npy.bad.jsonl").read_text()


def test_embed_through_a_server_gives_the_servers_rows(midrib: Any, tmp_path: Path) -> None:
    """Only the backbone in the command differs."""
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}) as server, Client(server.address) as client:
        name = "template/classification/mlp-128"
        done = midrib("embed", str(rows), "--backbone", server.url(name), "--out", str(out))
        np.testing.assert_allclose(np.load(out), client.embed(name, np.load(rows)), rtol=1e-5)
        assert done.stderr.splitlines()[1] == f"connecting to {server.url(name)} ..."
    assert done.returncode == 0


def test_embed_copies_columns_and_shapes_features(midrib: Any, tmp_path: Path) -> None:
    """The options of `embed_files`, at the command line."""
    table, out = tmp_path / "t.csv", tmp_path / "out.npy"
    table.write_text("text,label,n\na cat,x,1\na dog,y,2\n")
    arguments = ["--keep", "label,n", "--normalize", "--dimensions", "8", "--dtype", "float16", "--prompt", "q: "]
    backbone = "text/embedding/wordllama-256"
    done = midrib("embed", str(table), "--backbone", backbone, "--out", str(out), *arguments, "--json")
    assert json.loads(done.stdout) == {"out": str(out), "rows": 2, "bad": 0, "resumed": 0}
    features = np.load(out)
    assert (features.shape, features.dtype) == ((2, 8), np.float16)
    np.testing.assert_allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1, atol=1e-2)
    kept = json.loads((tmp_path / "out.npy.json").read_text())["kept"]
    assert kept == {"label": ["x", "y"], "n": ["1", "2"]}


@pytest.mark.parametrize(
    ("backbone", "option", "message"),
    [
        pytest.param("mlp-128", ["--token", "secret"], "--token has no effect", id="token"),
        pytest.param("mlp-128", ["--timeout", "3"], "--timeout has no effect", id="timeout"),
        pytest.param("mlp-128", ["--tls-roots", "roots.pem"], "--tls-roots has no effect", id="roots"),
        pytest.param("mlp-128", ["--tls-certificate", "me.pem"], "--tls-certificate has no effect", id="certificate"),
        pytest.param(
            "grpc://127.0.0.1:1/mlp-128",
            ["--import", "mine"],
            "--import has no effect",
            id="import",
        ),
    ],
)
def test_embed_refuses_options_that_it_would_ignore(
    midrib: Any, tmp_path: Path, backbone: str, option: list[str], message: str
) -> None:
    """The user would believe that they had an effect."""
    (tmp_path / "t.txt").write_text("one\n")
    out = str(tmp_path / "out.npy")
    done = midrib("embed", str(tmp_path / "t.txt"), "--backbone", backbone, "--out", out, *option)
    assert (done.returncode, message in done.stderr) == (1, True)


def test_a_token_of_the_environment_is_no_option(midrib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIDRIB_TOKEN is set for all commands."""
    monkeypatch.setenv("MIDRIB_TOKEN", "secret")
    rows, out = tmp_path / "rows.npy", tmp_path / "embeddings.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    assert midrib("embed", str(rows), "--backbone", MLP, "--out", str(out)).returncode == 0


def test_an_output_whose_folder_cannot_be_created_is_one_sentence(midrib: Any, tmp_path: Path) -> None:
    """/proc lets nobody create a file, and says that the path does not exist; the command waited for ever."""
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((3, 4), np.float32))
    done = midrib("embed", str(rows), "--backbone", MLP, "--out", "/proc/midrib.npy")
    assert done.returncode == 1
    assert "cannot write output /proc/midrib.npy" in done.stderr


SLOW_MODULE = """
import time
from torch import nn
from midrib.backbones import BACKBONES
from midrib.registry import TensorInput

@BACKBONES(name="slow", namespace="my/embedding", input=TensorInput((4,)))
def load_slow():
    time.sleep(60)
    return nn.Linear(4, 2), 2
"""


def test_embed_speaks_at_once_and_ends_at_once(tmp_path: Path) -> None:
    """It names its steps before anything is imported, and Ctrl-C while a model loads does not wait for it."""
    (tmp_path / "my_slow.py").write_text(SLOW_MODULE)
    np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
    command = [sys.executable, "-m", "midrib.server.cli", "embed", "rows.npy", "--backbone", "slow"]
    options = ["--import", "my_slow", "--out", "out.npy"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "reading the inputs ...\n"
        assert process.stderr.readline() == "loading slow ...\n"
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        said = process.stderr.read()
        assert process.wait(10) == 130
    assert time.monotonic() - interrupted < 5
    assert "interrupted: run the same command again to resume out.npy" in said
    assert "Traceback" not in said


def test_a_cluster_without_ray_names_the_package(midrib: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--ray needs packages that the command does not."""
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
    command = ["embed", str(tmp_path / "rows.npy"), "--backbone", MLP, "--out", str(tmp_path / "out.npy")]
    done = midrib(*command, "--ray", "auto")
    assert done.returncode == 1
    assert "--ray needs Ray and midrib-ray" in done.stderr
    assert "pip install 'midrib-ray[ray,local]'" in done.stderr
