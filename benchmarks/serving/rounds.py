"""Measure every contender in each round, so that other load on the machine affects all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict
from typing import Any

from arena import Arena
from contenders import CONTENDERS, Contender
from load import WARM_UP, sample
from loads import MixedLoad
from processes import ServerProcess, load_average
from results import Measurement, Plan, Results
from works import BULK, Setting, Work

logger = logging.getLogger("benchmark")


class Rounds:
    """Measures every contender of a workload, round by round, and adds to the results."""

    def __init__(self, arena: Arena, plan: Plan, results: Results) -> None:
        self._arena = arena
        self._plan = plan
        self._results = results

    async def run(self, work: Work) -> None:
        """Run all rounds of a workload. Each begins with another contender, so that their neighbours vary."""
        servers = self._arena.servers
        for server in servers.values():
            server.forget_peak()
        contenders = [each for each in CONTENDERS if each.server in servers and work.name in each.works]
        for index in range(self._plan.rounds):
            first = index % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                await self._turn(work, contender, index)
            load = load_average()
            self._results.loads.append(load)
            logger.info("%s: round %d of %d, load average %.1f", work.name, index + 1, self._plan.rounds, load)
        self._results.peaks[work.name] = {name: server.memory_bytes(peak=True) for name, server in servers.items()}

    async def _turn(self, work: Work, contender: Contender, index: int) -> None:
        async with self._arena.turn(contender.server) as server:
            for setting in _settings(work, contender):
                key = f"{work.name}, {contender.name}, {setting}"
                try:
                    measured = await self._measure(work, contender, setting, server)
                except Exception as error:  # noqa: BLE001 - an error of a contender affects only its row
                    self._results.failures[key] = f"{type(error).__name__}: {_first_line(error)}"
                    logger.warning("%s: %s", key, self._results.failures[key])
                else:
                    self._results.measurements.append(Measurement(**measured, round=index))

    async def _measure(
        self, work: Work, contender: Contender, setting: Setting, server: ServerProcess
    ) -> dict[str, Any]:
        seconds = self._plan.seconds * work.duration
        load = self._arena.load(contender, work)
        async with asyncio.TaskGroup() as group:
            cpu_share = group.create_task(_cpu_share(server, seconds))
            calls = await load.run(setting, seconds)
        summary = sample(*calls, setting.rows)
        bulk = sample(*load.bulk_calls, BULK.rows).rate if isinstance(load, MixedLoad) else None
        return {
            "work": work.name,
            "contender": contender.name,
            "rows": setting.rows,
            "concurrency": setting.concurrency,
            "cpu_us": 1e6 * cpu_share.result() * setting.rows / summary.rate,
            "bulk_rate": bulk,
            **asdict(summary),
        }


async def _cpu_share(server: ServerProcess, seconds: float) -> float:
    """Return the processor seconds of a server per second, in the part of a measurement that counts."""
    await asyncio.sleep(WARM_UP * seconds)
    before, began = server.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    return (server.cpu_s() - before) / (time.monotonic() - began)


def _settings(work: Work, contender: Contender) -> list[Setting]:
    if contender.server != "in_process":
        return list(work.settings)
    if len(work.models) > 1:
        return [Setting(BULK.rows, 1)]
    return [Setting(rows, 1) for rows in dict.fromkeys(setting.rows for setting in work.settings)]


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    details = getattr(error, "details", None)
    text = str(details()) if callable(details) else str(error)
    return text.strip().split("\n")[0] or type(error).__name__
