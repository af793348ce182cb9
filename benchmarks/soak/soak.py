"""Many kinds of clients at once for a chosen time: `python benchmarks/soak/soak.py --minutes 3` writes soak.md.

The clients run streams and unary calls, load and unload backbones, give up calls and streams, or are killed. The
memory, file descriptors and threads of the server process are sampled. Every answer is checked: a wrong row ends the
run with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from subject import Sample, Subject, running

from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

ROWS_OF_TABLE = 12
ITEMS_OF_STREAM = 200
KILL_EVERY_S = 5.0
CHANCE = random.Random(0)  # noqa: S311 - not a secret
# A client that sends endlessly and never reads; it prints a line when it begins.
FLOOD = """
import itertools, sys, grpc, numpy as np
from midrib.v1 import embedding_pb2 as e, embedding_pb2_grpc as g
from midrib.wire import encode_tensor
big = e.Input(tensor=encode_tensor(np.ones((1024, 2), np.float32)))
def talk():
    yield e.EmbedStreamRequest(open=e.Open(backbone="double"))
    for number in itertools.count():
        yield e.EmbedStreamRequest(item=e.Item(id=number, input=big))
answers = g.EmbeddingServiceStub(grpc.insecure_channel(sys.argv[1])).EmbedStream(talk())
next(answers)
print("flooding", flush=True)
sys.stdin.read()
"""


class Clients:
    """The kinds of clients: coroutines that are repeated until the time is up."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._embedding: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self._backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        self._address = address
        self.counts: Counter[str] = Counter()

    async def unary(self) -> None:
        """Embed one row, and check it."""
        number = CHANCE.randrange(10_000)
        answer = await self._embedding.Embed(_request("double", number), timeout=30)
        _check(answer.embedding, number)
        self.counts["unary"] += 1

    async def stream(self) -> None:
        """Read a stream to its end, and check every item."""
        async for answer in self._embedding.EmbedStream(_talk(ITEMS_OF_STREAM), timeout=120):
            if answer.WhichOneof("message") == "result":
                _check(answer.result.embedding, answer.result.id)
                self.counts["stream items"] += 1

    async def give_up(self) -> None:
        """Cancel a call at once, and a stream in the middle."""
        call = self._embedding.Embed(_request("double", 1), timeout=30)
        await asyncio.sleep(0)
        call.cancel()
        stream = self._embedding.EmbedStream(_talk(ITEMS_OF_STREAM), timeout=30)
        left = CHANCE.randrange(ITEMS_OF_STREAM)
        async for _ in stream:
            left -= 1
            if left < 0:
                break
        stream.cancel()
        self.counts["given up"] += 2

    async def guest(self) -> None:
        """Load, use and unload a backbone of a random width."""
        arguments = {"num_features": backbone_pb2.Argument(int_value=CHANCE.choice([16, 64, 256]))}
        await self._backbones.LoadBackbone(
            backbone_pb2.LoadBackboneRequest(name="guest", arguments=arguments, replace=True), timeout=60
        )
        await self._embedding.Embed(_request("guest", 1), timeout=30)
        await self._backbones.UnloadBackbone(backbone_pb2.UnloadBackboneRequest(name="guest"), timeout=60)
        self.counts["loads"] += 1

    async def killed(self) -> None:
        """Start a client process, and kill it while it floods the server."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FLOOD, self._address, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if process.stdout is None:
            raise RuntimeError("the client's pipe is missing")
        await process.stdout.readline()
        process.kill()
        await process.communicate()
        self.counts["killed"] += 1
        await asyncio.sleep(KILL_EVERY_S)


def _request(backbone: str, number: int) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(backbone=backbone, input=_input(number))


def _input(number: int) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=encode_tensor(np.full((1, 2), number, np.float32)))


async def _talk(count: int) -> AsyncIterator[embedding_pb2.EmbedStreamRequest]:
    yield embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    for number in range(count):
        yield embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=number, input=_input(number)))


def _check(embedding: Any, number: int) -> None:
    got = decode_tensor(embedding).tolist()
    if got != [[2.0 * number] * 2]:
        raise ValueError(f"the embedding of {number} is {got}, expected twice the number")


async def repeat(work: Callable[[], Awaitable[None]], until: float) -> None:
    """Repeat work until the time is up."""
    while time.monotonic() < until:
        await work()


async def load(subject: Subject, minutes: float) -> list[tuple[float, Sample, Counter[str]]]:
    """Run all clients; return the seconds, the sample and the counts of each row of the table."""
    began = time.monotonic()
    until = began + minutes * 60
    async with grpc.aio.insecure_channel(subject.address) as channel, asyncio.TaskGroup() as group:
        clients = Clients(channel, subject.address)
        kinds = [clients.unary, clients.unary, clients.stream, clients.stream, clients.give_up, clients.guest]
        for work in [*kinds, clients.killed]:
            group.create_task(repeat(work, until))
        table = []
        for row in range(ROWS_OF_TABLE + 1):
            await asyncio.sleep(max(0.0, began + minutes * 60 * row / ROWS_OF_TABLE - time.monotonic()))
            table.append((time.monotonic() - began, subject.sample(), clients.counts.copy()))
    return table


def report(table: Sequence[tuple[float, Sample, Counter[str]]], after: Sample, minutes: float) -> str:
    """Return the table with its conditions."""
    kinds = ["unary", "stream items", "given up", "loads", "killed"]
    lines = [
        f"# Many kinds of clients at once for {minutes:g} minutes\n",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; clients and server share "
        f"the cores. Load of the machine\nwhen it ended (1 minute): {os.getloadavg()[0]:.1f}. Command: `python "
        f"benchmarks/soak/soak.py --minutes {minutes:g}`.\nAll answers were checked and correct.\n",
        "| s | memory MiB | fds | threads | " + " | ".join(kinds) + " |",
        "|---" * (4 + len(kinds)) + "|",
    ]
    for seconds, sample, counts in table:
        cells = [f"{seconds:.0f}", f"{sample.rss_mib:.0f}", str(sample.fds), str(sample.threads)]
        lines.append("| " + " | ".join(cells + [f"{counts[kind]:,}" for kind in kinds]) + " |")
    lines.append(
        f"\nWith all clients gone: {after.rss_mib:.0f} MiB, {after.fds} file descriptors, {after.threads} threads.\n"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, and write soak.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    minutes = parser.parse_args().minutes
    with running("soak") as subject:
        table = asyncio.run(load(subject, minutes))
        time.sleep(2)
        after = subject.sample()
    Path(__file__).with_suffix(".md").write_text(report(table, after, minutes))


if __name__ == "__main__":
    main()
