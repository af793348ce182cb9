"""The loads of the contenders."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import Any, Protocol

import grpc
import numpy as np
from contenders import ECHO_ANSWER, ECHO_UNARY, IN_PROCESS_1, CallerMaker
from load import Calls, Recorder, closed_loop
from numpy.typing import NDArray
from processes import ServerProcess
from works import BULK, Setting, payloads, row_bytes

from clients import CHANNEL, raw_bytes

_STREAMS = 4
_PARITY = 1e-4
# The least number of calls per caller: fewer would measure one or two batches only.
_LEAST_CALLS = 3


class ParityError(Exception):
    """The features of a server differ from those of the module in process."""


class Load(Protocol):
    """Calls one model of one contender."""

    async def run(self, setting: Setting, seconds: float) -> Calls:
        """Return the calls of `seconds` after a warm-up."""
        ...


class CallerLoad:
    """Closed-loop callers of one server."""

    def __init__(self, make: CallerMaker, address: str, model: str) -> None:
        self._make = make
        self._address = address
        self._model = model

    async def run(self, setting: Setting, seconds: float) -> Calls:
        """Open new connections, which does not count, and call."""
        caller = self._make(self._address, self._model, payloads(self._model, setting.rows))
        try:
            await caller.call(0)
            recorder = Recorder(seconds, least=_LEAST_CALLS * setting.concurrency)
            await closed_loop(caller.call, concurrency=setting.concurrency, recorder=recorder)
        finally:
            await caller.close()
        return recorder.began, recorder.ended

    async def check(self, expected: NDArray[np.float32]) -> None:
        """Raise ParityError unless the features of the first payload are the expected ones."""
        caller = self._make(self._address, self._model, payloads(self._model, len(expected)))
        try:
            got = caller.features(await caller.call(0))
        finally:
            await caller.close()
        if got.shape != expected.shape:
            raise ParityError(f"got features {list(got.shape)}, in process they are {list(expected.shape)}")
        if not (difference := float(np.abs(got - expected).max())) <= _PARITY:
            raise ParityError(f"features differ by {difference:.2g} from those in process, at most {_PARITY} is taken")


class MixedLoad:
    """One caller of the small model, while a bulk of the large model runs without pause."""

    def __init__(self, make: CallerMaker, address: str, models: tuple[str, ...]) -> None:
        self._single = CallerLoad(make, address, models[0])
        self._bulk = CallerLoad(make, address, models[1])
        self.bulk_calls: Calls = ([], [])

    async def run(self, setting: Setting, seconds: float) -> Calls:
        """Return the calls of the small model; the bulk begins before them and ends after them."""
        bulk = asyncio.create_task(self._bulk.run(BULK, 1.3 * seconds))
        await asyncio.sleep(0.2 * seconds)
        calls = await self._single.run(setting, seconds)
        self.bulk_calls = await bulk
        return calls


class EchoLoad:
    """Raw bytes of the workload's size, unary or on up to four streams that share the calls in flight."""

    def __init__(self, name: str, address: str, model: str) -> None:
        self._unary = name == ECHO_UNARY
        self._answer = name == ECHO_ANSWER
        self._address = address
        self._model = model

    async def run(self, setting: Setting, seconds: float) -> Calls:
        """Keep as many calls in flight as the setting has callers."""
        request = raw_bytes(payloads(self._model, setting.rows)[0])
        answer = setting.rows * row_bytes(self._model)[1] if self._answer else 0
        recorder = Recorder(seconds, least=_LEAST_CALLS * setting.concurrency)
        async with grpc.aio.insecure_channel(self._address, options=CHANNEL) as channel:
            if self._unary:
                call: Any = channel.unary_unary(f"/echo/unary/{answer}")
                await call(request)
                await closed_loop(lambda _: call(request), concurrency=setting.concurrency, recorder=recorder)
            else:
                streams = min(_STREAMS, setting.concurrency)
                opens: Any = channel.stream_stream(f"/echo/stream/{answer}")
                async with asyncio.TaskGroup() as group:
                    for _ in range(streams):
                        group.create_task(_stream(opens(), request, setting.concurrency // streams, recorder))
        return recorder.began, recorder.ended


async def _stream(call: Any, request: bytes, window: int, recorder: Recorder) -> None:
    """Keep a window of messages in flight. Two tasks write and read, since flow control would stop a single one."""
    began: deque[float] = deque()
    room = asyncio.Semaphore(window)

    async def write() -> None:
        while recorder.running:
            await room.acquire()
            began.append(time.monotonic())
            await call.write(request)
        await call.done_writing()

    writing = asyncio.create_task(write())
    while await call.read() is not grpc.aio.EOF:
        recorder.add(began.popleft())
        room.release()
    await writing


class InProcessLoad:
    """The module in a loop, in another process that reads orders from its stdin."""

    def __init__(self, process: ServerProcess, model: str, *, name: str = IN_PROCESS_1) -> None:
        self._process = process
        self._model = model
        self._all_cores = name != IN_PROCESS_1

    async def run(self, setting: Setting, seconds: float) -> Calls:
        """Call one after the other; the number of callers of the setting is ignored."""
        answer = await self._ask(rows=setting.rows, seconds=seconds)
        return answer["began"], answer["ended"]

    async def features(self, rows: int) -> NDArray[np.float32]:
        """Return the features of the first payload, the reference for every server."""
        answer = await self._ask(rows=rows, seconds=0)
        return np.asarray(answer["features"], np.float32)

    async def _ask(self, **order: Any) -> dict[str, Any]:
        line = json.dumps({"model": self._model, "all_cores": self._all_cores, **order})
        answer: dict[str, Any] = await asyncio.to_thread(self._exchange, line)
        return answer

    def _exchange(self, line: str) -> Any:
        orders, answers = self._process.pipes
        orders.write(line.encode() + b"\n")
        orders.flush()
        if not (answer := answers.readline()):
            raise RuntimeError(self._process.last_line())
        return json.loads(answer)
