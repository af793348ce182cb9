"""`midrib doctor`."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server.testing import serving

REGISTRY = Registry("for the doctor")


class Slow(nn.Module):
    """Computes rows of ones, which the doctor sends, only once the test has ended."""

    ended = threading.Event()

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == 1).all()):
            self.ended.wait(20)
        return rows


@REGISTRY(name="slow", namespace="test/embedding", input=TensorInput((2,)))
def load_slow() -> tuple[nn.Module, int]:
    return Slow(), 2


def test_doctor_passes_a_healthy_server_and_names_faults(midrib: Any) -> None:
    """Each check has its verdict; the exit status is 0 only if all are good."""
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}) as server:
        well = midrib("doctor", server.url("template/classification/mlp-128"))
        ill = midrib("doctor", server.url("template/classification/mlp-129"), "--json")
    verdicts = json.loads(ill.stdout)
    assert (well.returncode, "FAIL" in well.stdout) == (0, False)
    assert (ill.returncode, verdicts[-1]["ok"]) == (1, False)
    assert "mlp-128" in verdicts[-1]["detail"]
    assert verdicts[-1]["fix"].startswith(f"`midrib list --server grpc://{server.address}` shows")


def test_doctor_tells_slow_from_refused(midrib: Any) -> None:
    """A CPU server that needs long for a batch is healthy."""
    with serving("slow", registry=REGISTRY) as server:
        done = midrib("doctor", server.url("test/embedding/slow"), "--timeout", "0.5")
        Slow.ended.set()
    assert (done.returncode, "FAIL" in done.stdout) == (0, False)
    assert "256 rows were not embedded within 0.5 s" in done.stdout
    assert "raise --timeout to measure it" in done.stdout


@pytest.mark.parametrize(
    ("shared_memory", "words"),
    [(True, "MB/s through shared memory"), (False, "shared memory is not used: the server offers none")],
)
def test_doctor_says_whether_memory_is_shared(midrib: Any, shared_memory: bool, words: str) -> None:
    """Neither answer is a failure."""
    with serving({"name": "mlp-128", "arguments": {"num_features": 784}}, shared_memory=shared_memory) as server:
        done = midrib("doctor", server.url("template/classification/mlp-128"))
    assert (done.returncode, words in done.stdout) == (0, True)


def test_doctor_takes_a_short_name(midrib: Any) -> None:
    """Every check understands it, as every call does."""
    with serving({"name": "mlp-128", "arguments": {"num_features": 4}}) as server:
        done = midrib("doctor", f"grpc://{server.address}/mlp-128")
    assert (done.returncode, "FAIL" in done.stdout) == (0, False)
