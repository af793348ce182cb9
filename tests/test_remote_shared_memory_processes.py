"""Shared memory of client processes that fork, are spawned, or are killed; the server is another process."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from midrib.remote import RemoteBackbone

NAME = "template/classification/mlp-128"
WIDTH = 16384
# Another process: a server's gRPC, unlike a client's, does not survive a fork of its process.
SERVER = f"""
import json, os, sys
from midrib.server.testing import serving
backbone = {{"name": "{NAME}", "arguments": {{"num_features": {WIDTH}}}}}
with serving(backbone, http_port=0, workers=sys.argv[1], warm_up_s=0.0) as running:
    print(json.dumps([running.url("{NAME}"), running.server.http_address, os.getpid()]), flush=True)
    sys.stdin.read()
"""
# Is killed with a call in flight, in shared memory.
VICTIM = f"""
import sys, threading, torch
from midrib.remote import RemoteBackbone
backbone = RemoteBackbone(sys.argv[1], shared_memory=True)
backbone(torch.ones(64, {WIDTH}))
assert backbone.stall.shared_items
print("ready", flush=True)
while True:
    backbone(torch.ones(256, {WIDTH}))
"""


class Served(NamedTuple):
    """A server in another process."""

    url: str
    http: str
    process: int

    def shared_bytes(self) -> float:
        """Return the bytes that it shares, by its metrics."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:  # loopback
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("midrib_shared_memory_bytes "))

    def descriptors(self) -> int:
        """Return the number of its open files, without the staging buffers, which are mapped when first used."""
        names: list[str] = []
        for file in Path(f"/proc/{self.process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed a moment ago
                names.append(str(file.readlink()))
        return sum("midrib-batch" not in name for name in names)


@pytest.fixture(scope="module", params=["thread", "process"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server whose replicas are threads, or processes that map the memory too."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, "the server did not start: its error is above"
        yield Served(*json.loads(line))
        server.stdin.close()


class Embedded(Dataset[Tensor]):
    """Rows that the worker embeds in shared memory."""

    def __init__(self, backbone: RemoteBackbone) -> None:
        self.backbone = backbone

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        features: Tensor = self.backbone(torch.full((8, WIDTH), float(index)))
        assert self.backbone.stall.shared_items > 0
        return features[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_dataloader_workers_share_memory(served: Served, start: str) -> None:
    """Each worker has its own segment, and the parent continues using its own."""
    run_apart(_load_with_workers, served.url, start)


def test_a_forked_child_leaves_its_parents_memory_alone(served: Served) -> None:
    """The child maps nothing of it; rows of both are right."""
    run_apart(_fork_between_calls, served.url)


def test_a_killed_client_leaves_nothing(served: Served) -> None:
    """With calls in flight: its memory and its descriptors are released."""
    kill_a_client(served.url)
    wait_for(lambda: served.shared_bytes() == 0)
    before = served.descriptors()
    for _ in range(3):
        kill_a_client(served.url)
    wait_for(lambda: served.shared_bytes() == 0)
    wait_for(lambda: served.descriptors() <= before)


def kill_a_client(url: str) -> None:
    """Kill a client that is computing."""
    with subprocess.Popen([sys.executable, "-c", VICTIM, url], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        victim.send_signal(signal.SIGKILL)


def wait_for(reached: Callable[[], bool]) -> None:
    """Return once a state is reached that does not take long; fails after many looks."""
    looks = 0
    while not reached():
        looks += 1
        assert looks < 3000, "the server still holds what a killed client had"


def run_apart(target: Callable[..., None], *arguments: object) -> None:
    """Run in another process: the gRPC of a test that ran before in this one would not survive a fork."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        process.join(120)
        assert process.exitcode == 0
    finally:
        process.kill()


def _load_with_workers(url: str, start: str) -> None:
    torch.set_num_threads(1)
    backbone = RemoteBackbone(url, shared_memory=True)
    want = torch.stack([backbone(torch.full((8, WIDTH), float(index)))[0] for index in range(6)])
    loader = DataLoader(Embedded(backbone), batch_size=3, num_workers=2, multiprocessing_context=start)
    torch.testing.assert_close(torch.cat(list(loader)), want)
    torch.testing.assert_close(backbone(torch.full((8, WIDTH), 5.0))[0], want[5])


def _fork_between_calls(url: str) -> None:
    torch.set_num_threads(1)
    backbone = RemoteBackbone(url, shared_memory=True)
    ones, twos = torch.ones(64, WIDTH), torch.full((64, WIDTH), 2.0)
    want = backbone(ones), backbone(twos)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            same = torch.equal(backbone(twos), want[1]) and backbone.stall.shared_items > 0
            os._exit(0 if same else 1)
        torch.testing.assert_close(backbone(ones), want[0])
        assert os.waitpid(child, 0)[1] == 0
