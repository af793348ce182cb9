"""Ten times the capacity for a minute: `python benchmarks/soak/overload.py --seconds 60` writes overload.md.

Calls are sent at a fixed rate, without waiting for earlier ones. The backbone takes 20 ms per row on every machine,
and the queue holds 25 items. So an accepted call must be answered within 26 x 20 ms plus the transport, and a refused
one at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from subject import QUEUE, SERVICE_S, WIDTH, Subject, running

from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

CAPACITY = 1 / SERVICE_S
FACTOR = 10


class Record:
    """The outcome and the duration of every call."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"answered": [], "refused": []}

    async def call(self, stub: Any, number: int) -> None:
        """Send a call with its number, which the answer must contain."""
        rows = np.full((1, WIDTH), number, np.float32)
        tensor = embedding_pb2.Input(tensor=encode_tensor(rows))
        began = time.perf_counter()
        try:
            answer = await stub.Embed(embedding_pb2.EmbedRequest(backbone="slow", input=tensor), timeout=30)
        except grpc.aio.AioRpcError as error:
            outcome = "refused" if _may_retry(error) else f"other: {error.code().name}"
        else:
            right = decode_tensor(answer.embedding)[0, 0] == rows[0, 0] * 2
            outcome = "answered" if right else "other: wrong rows"
        self.counts[outcome] += 1
        self.seconds.get(outcome, []).append(time.perf_counter() - began)


def _may_retry(error: grpc.aio.AioRpcError) -> bool:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or not isinstance(details, bytes):
        return False
    info = error_details_pb2.RetryInfo()
    return any(detail.Unpack(info) for detail in status_pb2.Status.FromString(details).details)


async def load(subject: Subject, seconds: float) -> tuple[Record, list[float]]:
    """Send calls for `seconds`; return their record, and the server's memory in MiB at each second."""
    record, memory, calls = Record(), list[float](), list[asyncio.Task[None]]()
    async with grpc.aio.insecure_channel(subject.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        await record.call(stub, 0)
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            due = int(elapsed * CAPACITY * FACTOR)
            calls += [asyncio.create_task(record.call(stub, number)) for number in range(len(calls), due)]
            if elapsed >= len(memory):
                memory.append(subject.sample().rss_mib)
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)
    return record, memory


def report(record: Record, memory: Sequence[float], seconds: float) -> str:
    """Return the table with its conditions."""
    sent = sum(record.counts.values())
    service_ms = seconds / record.counts["answered"] * 1e3
    lines = [
        f"# {FACTOR} times the capacity for {seconds:.0f} s\n",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; client and server share "
        f"the cores. Load of the machine\nwhen it ended (1 minute): {os.getloadavg()[0]:.1f}. Command: `python "
        f"benchmarks/soak/overload.py --seconds {seconds:.0f}`.\n",
        f"{sent:,} calls sent at a fixed rate ({sent / seconds:.0f}/s). The backbone takes {SERVICE_S * 1e3:.0f} ms a "
        f"row, one at a time: capacity is {CAPACITY:.0f}/s.\n"
        f"As served: {service_ms:.1f} ms a row. An accepted call waits for {QUEUE} others and itself: "
        f"{(QUEUE + 1) * service_ms:.0f} ms, and the transport.\n",
        "| calls | count | p50 ms | p99 ms | max ms |",
        "|---|---|---|---|---|",
    ]
    for what in sorted(record.counts):
        times = np.array(record.seconds.get(what) or [0.0]) * 1e3
        p50, p99 = np.percentile(times, [50, 99])
        lines.append(f"| {what} | {record.counts[what]:,} | {p50:.1f} | {p99:.1f} | {times.max():.1f} |")
    fifth = memory[min(5, len(memory) - 1)]
    lines.append(
        f"\nServer's memory, MiB: {memory[0]:.0f} at the start, {fifth:.0f} after 5 s, {memory[-1]:.0f} at the end, "
        f"{max(memory):.0f} at most.\n"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, and write overload.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with running("overload") as subject:
        record, memory = asyncio.run(load(subject, seconds))
    Path(__file__).with_suffix(".md").write_text(report(record, memory, seconds))


if __name__ == "__main__":
    main()
