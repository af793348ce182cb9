"""`midrib bench`: rates and latencies of a running server, or of one that it starts for the while."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from midrib.registry import AudioInput, InputSpec, TensorInput, TextInput
from midrib.remote._command.payloads import PayloadSource
from midrib.server.cli import main
from midrib.server.testing import RunningServer

MLP = "template/classification/mlp-128?num_features=4"


def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run the command in this process: its exit status, and what it said."""
    monkeypatch.setattr("sys.argv", ["midrib", "bench", *arguments, "--seconds", "0.05"])
    with pytest.raises(SystemExit) as ended:  # - every command ends so, the status is the caller's to check
        main()
    return int(ended.value.code or 0), capsys.readouterr()


def test_a_running_server_is_measured_at_every_concurrency(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each, with positive rates, and rows = calls x rows of a call."""
    url = server.url("test/embedding/linear")
    options = ("--rows", "3", "--concurrency", "1", "--concurrency", "4", "--json")
    status, said = bench(monkeypatch, capsys, url, *options)
    listener = json.loads(said.out)
    first, second = listener["measured"]
    assert (status, listener["url"]) == (0, url)
    assert [(one["rows"], one["concurrency"]) for one in listener["measured"]] == [(3, 1), (3, 4)]
    assert first["rows_per_s"] == pytest.approx(3 * first["calls_per_s"])
    assert 0 < second["p50_ms"] <= second["p99_ms"]


def test_the_table_has_a_line_for_each_concurrency(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a person: a head, and the figures below it."""
    status, said = bench(monkeypatch, capsys, server.url("test/embedding/linear"), "--concurrency", "2")
    url, head, figures = said.out.splitlines()
    assert (status, url) == (0, server.url("test/embedding/linear"))
    assert head.split("  ")[0].strip() == "rows a call"
    assert figures.split()[:2] == ["1", "2"]


def test_a_name_is_served_for_the_while(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A process of its own serves it, with the loader's arguments, on a free port."""
    status, said = bench(monkeypatch, capsys, MLP, "--concurrency", "1", "--json")
    listener = json.loads(said.out)
    assert status == 0
    assert listener["url"].startswith("grpc://127.0.0.1:")
    assert listener["url"].endswith("/template/classification/mlp-128")
    assert listener["measured"][0]["calls_per_s"] > 0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("/test/embedding/liner", "test/embedding/linear", id="unknown name, near ones named"),
        pytest.param("", "names no backbone", id="no name"),
    ],
)
def test_held_wrong_is_one_line_and_status_1(
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    words: str,
) -> None:
    """No traceback: what was wrong, and what to do."""
    status, said = bench(monkeypatch, capsys, f"grpc://{server.address}{path}")
    assert (status, "Traceback" in said.err) == (1, False)
    assert words in said.err


@pytest.mark.parametrize("name", ["test/embedding/linear", "text/embedding/words", "image/embedding/picture"])
def test_every_row_that_is_answered_was_computed(
    media_server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """By the server's own counters: no two payloads in flight are equal, so nothing can be joined or kept."""
    options = ("--rows", "2", "--concurrency", "8", "--json")
    status, said = bench(monkeypatch, capsys, media_server.url(name), *options)
    (measured,) = json.loads(said.out)["measured"]
    assert status == 0
    assert measured["computed_rows"] == measured["answered_rows"] >= 2 * 8
    assert 0 < measured["computed_batches"] <= measured["computed_rows"]


@pytest.mark.parametrize("spec", [TensorInput((3,)), TensorInput((None,), "int64"), TextInput(64), AudioInput(8000)])
def test_no_two_payloads_are_equal(spec: InputSpec) -> None:
    """Nor two rows of one."""
    source = PayloadSource(spec, rows=4)
    rows = [row for _ in range(50) for row in next(iter(source.make().arguments.values()))]
    assert len({row if isinstance(row, str) else row.tobytes() for row in rows}) == 200


def test_texts_have_the_lengths_of_real_ones() -> None:
    """Most are short and a few are long."""
    source = PayloadSource(TextInput(256), rows=500)
    lengths = np.array([len(text.split()) for text in source.make().arguments["texts"]])
    assert 12 < np.median(lengths) < 22
    assert 30 < np.percentile(lengths, 95) < 80
    assert lengths.max() > 2 * np.median(lengths)
