"""The workers of one backbone compute with the same weights, which lie in memory once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from midrib.registry import Registry
from midrib.server._catalogue.processes import ReplicaWorkers, host_in_processes
from midrib.server._catalogue.shared_weights import WeightsDifferError, share_weights
from midrib.server._settings import BackboneSettings, Settings
from midrib.server.testing import RunningServer
from midrib.v1 import embedding_pb2
from midrib.wire import Array, encode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]
Embed = Callable[..., list[Array | str]]


@pytest.fixture()
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("weights")
    yield descriptor
    os.close(descriptor)


def network() -> nn.Module:
    """Layers with buffers, a shared weight, a transposed one, and integers."""
    convolution = nn.Conv2d(3, 4, 3)
    convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), first, second).eval()


def test_a_second_module_computes_with_the_weights_of_the_first(memory: int) -> None:
    """Its own random weights are replaced; strides and shared weights stay as they are."""
    first, second, images = network(), network(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = first(images)
        share_weights(first, memory)
        share_weights(second, memory)
        assert torch.equal(first(images), expected)
        assert torch.equal(second(images), expected)
    assert second.get_parameter("0.weight").stride() == first.get_parameter("0.weight").stride()
    assert second.get_parameter("4.weight") is second.get_parameter("5.weight")


def test_a_module_that_writes_to_a_buffer_changes_only_its_own(memory: int) -> None:
    """The memory is mapped copy-on-write."""
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    share_weights(first, memory)
    share_weights(second, memory)
    second.get_buffer("running_mean").fill_(7)
    assert first.get_buffer("running_mean").tolist() == [0, 0]


@pytest.mark.parametrize(
    "other", [nn.Linear(2, 4), nn.Linear(2, 3).double(), nn.ReLU()], ids=["shape", "dtype", "none"]
)
def test_other_weights_than_the_first_time_are_refused(memory: int, other: nn.Module) -> None:
    """A loader must return the same module for the same arguments."""
    share_weights(nn.Linear(2, 3), memory)
    with pytest.raises(WeightsDifferError, match="other weights than the first time"):
        share_weights(other, memory)


def test_replicas_of_random_weights_give_the_same_rows(serve: Serve, embed: Embed) -> None:
    """The loader makes other weights in every process, but a revision names one function."""
    ones = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    with serve("random", replicas=2, max_batch_rows=1) as running:
        rows = [np.asarray(outcome).tolist() for outcome in embed(running, *[ones] * 64, backbone="random")]
    assert rows == [rows[0]] * 64


def test_a_successor_computes_with_the_weights_of_the_worker_that_died(
    replica_of: Callable[..., Any], kill: Callable[[int], None]
) -> None:
    """A replaced worker gives the same rows under the same revision."""
    replica, rows = replica_of("random"), (np.ones((1, 2), np.float32),)
    before = replica.run(rows)
    kill(replica.pid)
    assert np.array_equal(replica.run(rows), before)
    assert replica.restarts == 1


@pytest.fixture()
def large(misbehaving: Registry) -> list[ReplicaWorkers]:
    """Two replicas of a backbone with 512 MiB of weights."""
    requested = BackboneSettings(name="random", arguments={"mib": 512}, replicas=2)
    return host_in_processes(requested, Settings(warm_up_s=0, threads=1), misbehaving).workers


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, in which each page counts by its share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_a_second_replica_takes_a_quarter_of_the_memory_of_the_first(large: list[ReplicaWorkers]) -> None:
    """Its weights are those of the first."""
    first = large[0].start().supervisor
    lone = pss_bytes(first.worker().pid)
    second = large[1].start().supervisor
    both = pss_bytes(first.worker().pid) + pss_bytes(second.worker().pid)
    first.close()
    second.close()
    assert both - lone < 0.25 * lone
