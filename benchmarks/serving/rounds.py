"""The rounds: every contender in turn, again and again, so that what the machine does meanwhile is shared by all."""

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
    """Measures every contender of a work, round by round, into the results."""

    def __init__(self, arena: Arena, plan: Plan, results: Results) -> None:
        self._arena = arena
        self._plan = plan
        self._results = results

    async def run(self, work: Work) -> None:
        """All rounds of one work. Each begins with another contender: none always follows the same one."""
        servers = self._arena.servers
        for server in servers.values():
            server.forget_peak()
        contenders = [one for one in CONTENDERS if one.server in servers and work.name in one.works]
        for index in range(self._plan.rounds):
            first = index % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                await self._turn(work, contender, index)
            load = load_average()
            self._results.loads.append(load)
            logger.info("%s: round %d of %d, load average %.1f", work.name, index + 1, self._plan.rounds, load)
        self._results.peaks[work.name] = {name: one.memory_bytes(peak=True) for name, one in servers.items()}

    async def _turn(self, work: Work, contender: Contender, index: int) -> None:
        async with self._arena.turn(contender.server) as server:
            for setting in _settings(work, contender):
                key = f"{work.name}, {contender.name}, {setting}"
                try:
                    measured = await self._measure(work, contender, setting, server)
                except Exception as error:  # noqa: BLE001 - one contender's trouble is its own row's
                    self._results.failures[key] = f"{type(error).__name__}: {_first_line(error)}"
                    logger.warning("%s: %s", key, self._results.failures[key])
                else:
                    self._results.measurements.append(Measurement(**measured, round=index))

    async def _measure(
        self, work: Work, contender: Contender, setting: Setting, server: ServerProcess
    ) -> dict[str, Any]:
        seconds = self._plan.seconds * work.pace
        load = self._arena.load(contender, work)
        async with asyncio.TaskGroup() as group:
            cpu_share = group.create_task(_cpu_share(server, seconds))
            calls = await load.run(setting, seconds)
        seen = sample(*calls, setting.rows)
        bulk = sample(*load.bulk_calls, BULK.rows).rate if isinstance(load, MixedLoad) else None
        return {
            "work": work.name,
            "contender": contender.name,
            "rows": setting.rows,
            "concurrency": setting.concurrency,
            "cpu_us": 1e6 * cpu_share.result() * setting.rows / seen.rate,
            "bulk_rate": bulk,
            **asdict(seen),
        }


async def _cpu_share(server: ServerProcess, seconds: float) -> float:
    """Processor seconds that a server takes in a second, over the part of a measurement that counts."""
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
