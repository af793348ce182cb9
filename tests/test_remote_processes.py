"""Remote backbones in other processes: forked and spawned workers, DistributedDataParallel."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from midrib.remote import RemoteBackbone

NAME = "template/classification/mlp-128"
WIDTH = 8
# Another process: a server's gRPC, unlike a client's, does not survive a fork of its process.
SERVER = f"""
import sys
from midrib.server.testing import serving
with serving({{"name": "{NAME}", "arguments": {{"num_features": {WIDTH}}}}}) as running:
    print(running.url("{NAME}"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, "the server did not start: its error is above"
        yield url
        server.stdin.close()


class Embedded(Dataset[Tensor]):
    """Rows that the worker embeds."""

    def __init__(self, backbone: RemoteBackbone) -> None:
        self.backbone = backbone

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        features: Tensor = self.backbone(torch.full((1, WIDTH), float(index)))[0]
        return features


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_dataloader_workers_embed(url: str, start: str) -> None:
    """Workers use the backbone that the parent used before them, and the parent continues using it."""
    run_apart(_load_with_workers, url, start)


def test_no_grpc_thread_lives_at_a_fork(url: str) -> None:
    """Everything is closed just before: a child of a process with gRPC threads could never call."""
    run_apart(_call_in_a_forked_child, url)


def test_calls_in_flight_outlive_a_fork(url: str) -> None:
    """Another thread's calls, interrupted by the closing before each fork, are asked again: right, and in time."""
    run_apart(_fork_while_calling, url)


def run_apart(target: Callable[..., None], *arguments: object) -> None:
    """Run in another process: the gRPC of a test that ran before in this one would not survive a fork."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        process.join(120)
        assert process.exitcode == 0, "its error is above"
    finally:
        process.kill()


def _load_with_workers(url: str, start: str) -> None:
    backbone = RemoteBackbone(url, timeout=20.0)
    want = backbone(torch.arange(12.0)[:, None].expand(12, WIDTH))
    loader = DataLoader(Embedded(backbone), batch_size=4, num_workers=2, multiprocessing_context=start)
    torch.testing.assert_close(torch.cat(list(loader)), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone(torch.zeros(1, WIDTH)), want[:1], atol=1e-5, rtol=1e-5)


def _call_in_a_forked_child(url: str) -> None:
    backbone = RemoteBackbone(url, timeout=20.0)
    backbone(torch.zeros(1, WIDTH))
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    worker = context.Process(target=lambda: child.send(backbone(torch.zeros(2, WIDTH)).shape), daemon=True)
    worker.start()
    assert parent.poll(60.0)
    assert parent.recv() == (2, 128)
    worker.join()
    assert worker.exitcode == 0


def _fork_while_calling(url: str) -> None:
    backbone = RemoteBackbone(url, timeout=20.0)
    x = torch.arange(64.0)[:, None].expand(64, WIDTH).contiguous()
    want = backbone(x)
    forked = threading.Event()
    got: list[Tensor] = []

    def calling() -> None:
        while not forked.is_set():
            got.append(backbone(x))

    thread = threading.Thread(target=calling)
    thread.start()
    context = multiprocessing.get_context("fork")
    codes = []
    for _ in range(5):
        child = context.Process(target=int)
        child.start()
        child.join()
        codes.append(child.exitcode)
    forked.set()
    thread.join()
    assert codes == [0] * 5
    torch.testing.assert_close(torch.stack(got), want.expand(len(got), -1, -1), atol=1e-5, rtol=1e-5)


def test_ddp_trains_a_head_over_two_processes(url: str, tmp_path: Path) -> None:
    """Gradients of the head are averaged; the backbone has none, and each process has its own stream."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_train, args=(rank, url, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    try:
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    heads = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(*heads)


def _train(rank: int, url: str, folder: Path) -> None:
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(RemoteBackbone(url), nn.Linear(128, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        torch.manual_seed(rank)
        model(torch.randn(4, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.module[1].state_dict()["bias"], folder / f"{rank}.pt")
    # Before the group: where the reducer is what destroys it, torch joins gloo's thread with the interpreter's lock
    # held, and that thread may want the lock.
    del model
    distributed.destroy_process_group()
