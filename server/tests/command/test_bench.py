"""`midrib bench`: rates and latencies of a running server, or of one that it starts for the measurement."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from midrib.registry import AudioInput, InputSpec, TensorInput, TextInput
from midrib.remote._command.capacity import capacity_for
from midrib.remote._command.payloads import PayloadSource
from midrib.server.cli import main
from midrib.server.testing import RunningServer

MLP = "template/classification/mlp-128?num_features=4"


def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run the command in this process; return its exit status and its output."""
    monkeypatch.setattr("sys.argv", ["midrib", "bench", *arguments, "--seconds", "0.05"])
    with pytest.raises(SystemExit, match=r"^(\d+|None)$") as ended:  # the caller checks the status
        main()
    return int(ended.value.code or 0), capsys.readouterr()


def test_a_running_server_is_measured_at_every_concurrency(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has a line, with positive rates; the rows are the calls times the rows of a call."""
    url = server.url("test/embedding/linear")
    options = ("--rows", "3", "--concurrency", "1", "--concurrency", "4", "--json")
    status, output = bench(monkeypatch, capsys, url, *options)
    result = json.loads(output.out)
    first, second = result["measured"]
    assert (status, result["url"]) == (0, url)
    assert [(line["rows"], line["concurrency"]) for line in result["measured"]] == [(3, 1), (3, 4)]
    assert first["rows_per_s"] == pytest.approx(3 * first["calls_per_s"])
    assert 0 < second["p50_ms"] <= second["p99_ms"]


def test_the_table_has_a_line_for_each_concurrency(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --json, a reader gets a header and the figures below it."""
    status, output = bench(monkeypatch, capsys, server.url("test/embedding/linear"), "--concurrency", "2")
    url, head, figures = output.out.splitlines()
    assert (status, url) == (0, server.url("test/embedding/linear"))
    assert head.split("  ")[0].strip() == "rows a call"
    assert figures.split()[:2] == ["1", "2"]


def test_a_plan_turns_the_measured_rate_into_replicas_and_cost(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replica is planned at 70 % of the best measured rate."""
    options = ("--concurrency", "1", "--plan", "1000000", "--cost-per-hour", "2", "--json")
    status, output = bench(monkeypatch, capsys, server.url("test/embedding/linear"), *options)
    result = json.loads(output.out)
    plan, rate = result["plan"], result["measured"][0]["rows_per_s"]
    assert (status, plan["replica_rows_per_s"]) == (0, rate)
    assert plan["replicas"] - 1 < 1e6 / (0.7 * rate) <= plan["replicas"]
    assert plan["cost_per_hour"] == 2 * plan["replicas"]
    assert plan["cost_per_million_rows"] == pytest.approx(plan["cost_per_hour"] / 3600)


def test_a_plan_is_a_line_below_the_table(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the load, the replicas and the rate on which they rest."""
    options = ("--concurrency", "1", "--plan", "0.5")
    _, output = bench(monkeypatch, capsys, server.url("test/embedding/linear"), *options)
    assert output.out.splitlines()[-1].startswith("0.5 rows/s need 1 replica of ")


def test_a_large_load_is_printed_in_rows() -> None:
    """Neither the load nor the rate has an exponent."""
    expected = "1,234,567 rows/s need 142 replicas of 12,500 rows/s, each at most 70% busy"
    assert str(capacity_for(1234567, 12500)) == expected


@pytest.mark.parametrize(
    ("price", "text"),
    [(0.0015, "0.003 an hour, 8.33e-07 for"), (0.0, "0 an hour, 0 for"), (1e6, "2,000,000.00 an hour, 555.56 for")],
)
def test_prices_are_printed_with_their_digits(price: float, text: str) -> None:
    """A small one is not zero, and a large one has no exponent."""
    assert text in str(capacity_for(1e6, 714286, price))


@pytest.mark.parametrize("value", ["inf", "1e308"])
@pytest.mark.parametrize("option", ["--plan", "--cost-per-hour", "--seconds"])
def test_an_endless_number_is_refused(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the measurement: the replicas for it cannot be counted, and `--seconds inf` would never end."""
    monkeypatch.setattr("sys.argv", ["midrib", "bench", MLP, "--plan", "1", option, value])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"Invalid value for '{option}'" in capsys.readouterr().err


OUT_OF_RANGE = [("--plan", "0"), ("--plan", "nan"), ("--plan", "-1"), ("--plan", "x"), ("--cost-per-hour", "-2")]


@pytest.mark.parametrize(("option", "value"), OUT_OF_RANGE)
def test_a_load_or_a_cost_out_of_range_is_refused(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A load of zero needs no replicas, and a price is not negative."""
    status, output = bench(monkeypatch, capsys, MLP, "--plan", "1", option, value)
    assert (status, f"Invalid value for '{option}'" in output.err) == (2, True)


def test_a_cost_without_a_plan_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the option would be ignored."""
    status, output = bench(monkeypatch, capsys, MLP, "--cost-per-hour", "2")
    assert (status, "--cost-per-hour needs --plan" in output.err) == (2, True)


def test_a_name_is_served_for_the_measurement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A child process serves it, with the loader's arguments, on a free port."""
    status, output = bench(monkeypatch, capsys, MLP, "--concurrency", "1", "--json")
    result = json.loads(output.out)
    assert status == 0
    assert result["url"].startswith("grpc://127.0.0.1:")
    assert result["url"].endswith("/template/classification/mlp-128")
    assert result["measured"][0]["calls_per_s"] > 0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("/test/embedding/liner", "test/embedding/linear", id="unknown name, near ones named"),
        pytest.param("", "does not name a backbone", id="no name"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    words: str,
) -> None:
    """The line names the mistake and the remedy, without a traceback."""
    status, output = bench(monkeypatch, capsys, f"grpc://{server.address}{path}")
    assert (status, "Traceback" in output.err) == (1, False)
    assert words in output.err


@pytest.mark.parametrize("name", ["test/embedding/linear", "text/embedding/words", "image/embedding/picture"])
def test_every_row_that_is_answered_was_computed(
    media_server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The server's own counters say so: no two payloads in flight are equal, so none is joined or cached."""
    options = ("--rows", "2", "--concurrency", "8", "--json")
    status, output = bench(monkeypatch, capsys, media_server.url(name), *options)
    (measured,) = json.loads(output.out)["measured"]
    assert status == 0
    assert measured["computed_rows"] == measured["answered_rows"] >= 2 * 8
    assert 0 < measured["computed_batches"] <= measured["computed_rows"]


@pytest.mark.parametrize("spec", [TensorInput((3,)), TensorInput((None,), "int64"), TextInput(64), AudioInput(8000)])
def test_no_two_payloads_are_equal(spec: InputSpec) -> None:
    """Rows within one payload differ too."""
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
