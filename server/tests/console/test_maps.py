"""Embedding files as maps: every kind that `midrib embed` writes, and files that cannot be drawn."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from midrib.registry import Registry
from midrib.server._console import table
from midrib.server._console.map_process import drawn
from midrib.server._console.maps import _ONE_THREAD, _PROGRAM
from midrib.server._console.projection import pca, project
from midrib.server._console.table import FileError, read_table
from midrib.server.testing import RunningServer, serving
from midrib.wire import Array
from server.tests.console.calls import ask

VECTORS = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32) * [9, 4, 1, 1, 1, 1]
IDS = [f"row-{index}" for index in range(30)]


def npy(vectors: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()


def safetensors() -> bytes:
    metadata = {"ids": json.dumps(IDS), "kept": json.dumps({"kind": ["a", "b"] * 15})}
    return save({"embedding": VECTORS.astype(np.float32)}, metadata)


def jsonl() -> bytes:
    rows = [
        {"id": i, "kind": "ab"[n % 2], "embedding": row.tolist()}
        for n, (i, row) in enumerate(zip(IDS, VECTORS, strict=True))
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def parquet(vectors: Array, columns: dict[str, Any]) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'midrib-remote[parquet]'")
    from pyarrow.parquet import write_table  # type: ignore[import-untyped] # it has no types

    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    file = io.BytesIO()
    write_table(pa.table({**columns, "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param("safetensors", safetensors(), id="safetensors"),
        pytest.param("jsonl", jsonl(), id="jsonl"),
        pytest.param("parquet", parquet(VECTORS, {"id": IDS, "kind": ["a", "b"] * 15}), id="parquet"),
    ],
)
def test_a_file_has_its_vectors_and_columns(kind: str, data: bytes) -> None:
    """They are in the order of the file's rows."""
    read = read_table(kind, data)
    np.testing.assert_allclose(read.vectors, VECTORS, rtol=1e-5)
    assert dict(read.columns) == {"id": IDS, "kind": ["a", "b"] * 15}


def test_half_precision_and_integers_are_vectors_too() -> None:
    """They are drawn as float32."""
    assert read_table("npy", npy(np.arange(6, dtype=np.float16).reshape(3, 2))).vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        pytest.param("csv", b"", "expected one of parquet, npy", id="unknown kind"),
        pytest.param("npy", b"x", "cannot be read as .npy", id="broken"),
        pytest.param("npy", npy(np.zeros(3)), "expected numbers", id="one dimension"),
        pytest.param("npy", npy(np.zeros((0, 3))), "expected numbers", id="no rows"),
        pytest.param("npy", npy(np.array([["a"]])), "expected numbers", id="texts"),
        pytest.param("npy", npy(np.array([[1.0], [np.nan]])), "row 1 has NaN", id="NaN"),
        pytest.param("npy", npy(np.array([[1.0], [1e13]])), "row 1 has .* numbers above 1e.12", id="huge"),
        pytest.param(
            "safetensors", save({"embedding": np.ones((2, 2))}, {"kept": '{"a": 5}'}), "lists by name", id="a number"
        ),
        pytest.param(
            "safetensors", save({"embedding": np.ones((2, 2))}, {"kept": '{"a": "xy"}'}), "lists by name", id="a text"
        ),
        pytest.param("safetensors", save({"x": np.zeros((2, 2))}), "named 'embedding'", id="no embedding"),
        pytest.param("jsonl", b"[1]\n", "expected a JSON object", id="jsonl of lists"),
        pytest.param("jsonl", b'{"a": 1}\n', "cannot be read", id="jsonl without a vector"),
        pytest.param("parquet", b"PAR1", "cannot be read as .parquet", id="broken parquet"),
    ],
)
def test_a_file_that_cannot_be_drawn_says_why(kind: str, data: bytes, message: str) -> None:
    """With the value that was received."""
    with pytest.raises(FileError, match=message):
        read_table(kind, data)


def test_a_pickled_file_is_not_run() -> None:
    """A pickle may hold any program."""
    with pytest.raises(FileError, match="allow_pickle"):
        read_table("npy", npy(np.array([{"a": 1}], dtype=object)))


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_too_many_rows_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet before it is unpacked, because it may grow a thousandfold."""
    monkeypatch.setattr(table, "MAX_ROWS", 29)
    data = {"npy": npy(VECTORS), "parquet": parquet(VECTORS, {})}[kind]
    with pytest.raises(FileError, match="at most 29"):
        read_table(kind, data)


@pytest.mark.parametrize("shape", [(30, 6), (200, 50), (40, 300)], ids=str)
def test_pca_agrees_with_the_exact_decomposition(shape: tuple[int, int]) -> None:
    """Up to the direction of an axis, which is fixed here."""
    vectors = np.random.default_rng(1).normal(size=shape) * np.geomspace(1, 0.01, shape[1])
    points, shares = pca(vectors.astype(np.float32))
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * sizes[:2]), atol=1e-3 * sizes[0])
    np.testing.assert_allclose(shares, sizes[:2] ** 2 / (sizes**2).sum(), rtol=1e-3)


@pytest.mark.parametrize("size", [1e12, 1e-30], ids=str)
def test_large_and_small_numbers_are_drawn(size: float) -> None:
    """Their squares are neither infinite nor 0 in float32."""
    points, shares = pca((VECTORS / 100 * size).astype(np.float32))
    expected, expected_shares = pca(VECTORS.astype(np.float32))
    np.testing.assert_allclose(points / size * 100, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shares, expected_shares, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (2, 2), (3, 4)], ids=str)
def test_few_rows_and_few_numbers_are_drawn(shape: tuple[int, int]) -> None:
    """A missing axis is 0."""
    points, _ = pca(np.ones(shape, np.float32))
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


def test_an_unknown_method_is_refused() -> None:
    """The error lists the methods that exist."""
    with pytest.raises(FileError, match="expected 'pca' or 'umap'"):
        project("tsne", VECTORS.astype(np.float32))


def test_columns_have_a_kind_that_the_page_draws_by() -> None:
    """Numbers, few texts, many texts, pictures."""
    columns = {
        "score": [1.5, None] * 15,
        "kind": ["a", "b"] * 15,
        "text": [f"{index} " * 200 for index in range(30)],
        "picture": ["data:image/png;base64,AAAA"] * 30,
    }
    answer = drawn("parquet", "pca", parquet(VECTORS, columns))
    kinds = {column["name"]: column["kind"] for column in answer["columns"]}
    assert kinds == {"score": "number", "kind": "category", "text": "text", "picture": "picture"}
    assert max(len(value) for value in answer["columns"][2]["values"]) == 300


def test_a_long_name_of_a_column_is_cut_and_not_left_out() -> None:
    """A name is a title on the page."""
    answer = drawn("jsonl", "pca", json.dumps({"embedding": [1, 2], "x" * 400: "a"}).encode() + b"\n")
    assert ([column["name"] for column in answer["columns"]], answer["left_out"]) == (["x" * 300], [])


def test_umap_has_ten_minutes(console_server: RunningServer) -> None:
    """It compiles before it computes; every other call ends after one minute."""
    headers = {"X-Request-Timeout": "0.001", "Content-Type": "application/octet-stream"}
    reply = ask(console_server, "/console/api/map?kind=npy", body=npy(VECTORS), headers=headers)
    assert "up to 600" in reply.json["error"]["message"]


def test_the_server_draws_a_file(console_server: RunningServer) -> None:
    """The points of the process are those of the function."""
    reply = ask(console_server, "/console/api/map?kind=npy", body=npy(VECTORS))
    points = np.frombuffer(base64.b64decode(reply.json["points"]), "<f4").reshape(-1, 2)
    assert (reply.status, reply.json["width"]) == (200, 6)
    np.testing.assert_allclose(points, pca(VECTORS.astype(np.float32))[0], rtol=1e-4)


def test_the_server_answers_why_a_file_cannot_be_drawn(console_server: RunningServer) -> None:
    """A mistake of the sender is a 400, not a failure of the server."""
    reply = ask(console_server, "/console/api/map?kind=npy", body=b"x")
    assert (reply.status, reply.json["error"]["param"]) == (400, "file")


def test_umap_draws_a_file(external_python: Callable[[str], Path]) -> None:
    """The real umap-learn draws it, in the process and with the limits of the server."""
    python = external_python("umap-learn")
    path = [*map(str, python.parents[1].glob("lib/*/site-packages")), *sys.path]
    command = [str(python), "-c", _PROGRAM, json.dumps(path), "npy", "umap"]
    # Without numba's compiler it takes 3 s of a processor, with it 12 s: the process has a low priority.
    environment = {**os.environ, **_ONE_THREAD, "NUMBA_DISABLE_JIT": "1"}
    drawn_map = subprocess.run(command, env=environment, input=npy(VECTORS), capture_output=True, check=True)
    assert np.isfinite(np.frombuffer(base64.b64decode(json.loads(drawn_map.stdout)["points"]), "<f4")).all()


def test_umap_that_is_not_installed_is_refused(console_server: RunningServer) -> None:
    """With the remedy; the page offers it only if it is installed."""
    assert ask(console_server, "/console/api/session").json["umap"] is False
    reply = ask(console_server, "/console/api/map?kind=npy&method=umap", body=npy(VECTORS))
    assert "pip install umap-learn" in reply.json["error"]["message"]


@pytest.mark.parametrize("query", ["kind=%00", "kind=npy&method=%00", "kind=../x", "kind=npy&method=tsne", ""])
def test_an_unknown_kind_or_method_starts_no_process(
    console_server: RunningServer, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """They would be arguments of its command line, which cannot hold a NUL."""
    monkeypatch.setattr("midrib.server._console.maps._PROGRAM", "import os; os._exit(9)")
    reply = ask(console_server, f"/console/api/map?{query}", body=b"x")
    assert (reply.status, reply.json["error"]["param"]) == (400, "kind")
    assert "expected one of parquet, npy, safetensors, jsonl and one of pca, umap" in reply.json["error"]["message"]


def test_a_file_of_another_media_type_is_refused(console_server: RunningServer) -> None:
    """A form of a web page cannot start a process."""
    reply = ask(console_server, "/console/api/map?kind=npy", body=b"x", headers={"Content-Type": "text/plain"})
    assert reply.status == 415
    assert "expected 'application/octet-stream'" in reply.json["error"]["message"]


def test_a_process_that_dies_is_a_failure_of_the_server(
    console_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself continues, and the caller learns a remedy."""
    monkeypatch.setattr("midrib.server._console.maps._PROGRAM", "import os; os._exit(9)")
    reply = ask(console_server, "/console/api/map?kind=npy", body=npy(VECTORS))
    assert reply.status == 500
    assert "send a sample" in reply.json["error"]["message"]


def test_a_file_larger_than_the_room_is_refused(test_registry: Registry) -> None:
    """It is refused before it is received."""
    with serving("words", registry=test_registry, http_port=0, console=True, max_in_flight_bytes=1000) as running:
        assert ask(running, "/console/api/map?kind=npy", body=bytes(2000)).status == 413
