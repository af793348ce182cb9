"""Start and check the servers of a group of workloads; all but the measured one are stopped by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from contenders import CONTENDERS, ECHO_UNARY, Contender, command, environment
from loads import CallerLoad, EchoLoad, InProcessLoad, Load, MixedLoad, ParityError
from processes import ServerProcess, free_port
from results import Plan, Results
from works import WORKS, Setting, Work

logger = logging.getLogger("benchmark")

_READY_S = 120.0
_ATTEMPT_S = 10.0
_RETRY_S = 0.2
_CHECKED_ROWS = 2


class Arena:
    """Servers with the same models. Only one of them runs at a time: an idle server would slow the measured one."""

    def __init__(self, plan: Plan, models: tuple[str, ...], results: Results) -> None:
        self.servers: dict[str, ServerProcess] = {}
        self._addresses: dict[str, str] = {}
        self._plan = plan
        self._models = models
        self._results = results

    async def start(self) -> None:
        """Start and check every server of these workloads; one that fails is in the failures of the results."""
        for name in ("in_process", *self._plan.pythons):  # the answers of the first are the reference
            failed = f"{name}: start" in self._results.failures
            if name not in self.servers and not failed and self._takes_part(name):
                await self._start(name)

    def stop(self) -> None:
        """End every server."""
        for server in self.servers.values():
            server.stop()

    def load(self, contender: Contender, work: Work) -> Load:
        """Return the load for a contender."""
        address = self._addresses[contender.server]
        if contender.server == "in_process":
            # With a bulk load, the limit is that of the bulk's model, the last one.
            return InProcessLoad(self.servers["in_process"], work.models[-1], name=contender.name)
        if contender.caller is None:
            return EchoLoad(contender.name, address, work.model)
        if len(work.models) > 1:
            return MixedLoad(contender.caller, address, work.models)
        return CallerLoad(contender.caller, address, work.model)

    @contextlib.asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[ServerProcess]:
        """Let the server run, and freeze it afterwards."""
        process = self.servers[server]
        process.thaw()
        try:
            yield process
        finally:
            process.freeze()

    def _takes_part(self, server: str) -> bool:
        """Return whether a contender with this server takes part in a workload of these models."""
        names = {work.name for work in WORKS if work.models == self._models}
        return any(contender.server == server and names & set(contender.works) for contender in CONTENDERS)

    async def _start(self, name: str) -> None:
        port, python = free_port(), str(self._plan.pythons.get(name, sys.executable))
        began = time.monotonic()
        process = ServerProcess(
            command(name, port, self._models, python),
            self._plan.logs / f"{name}-{'-'.join(self._models)}.log",
            environment=environment(name),
            pipes=name == "in_process",
        )
        self.servers[name], self._addresses[name] = process, f"127.0.0.1:{port}"
        try:
            await self._check(name)
        except Exception as error:  # noqa: BLE001 - the report shows the failure of a rival
            said = str(error) if process.running else process.last_line()
            self._results.failures[f"{name}: start"] = f"{type(error).__name__}: {said}"
            logger.warning("%s does not start: %s", name, said)
            del self.servers[name]
            process.stop()
            return
        process.freeze()
        logger.info("%s (%s) answers after %.1f s", name, ", ".join(self._models), time.monotonic() - began)

    async def _check(self, name: str) -> None:
        """Wait until the server answers, and compare its features with those of the module in process."""
        if name == "echo":
            echo = EchoLoad(ECHO_UNARY, self._addresses[name], "mlp")
            await self._until_ready(name, partial(echo.run, Setting(1, 1), 0.01))
            return
        for model in self._models:
            async with self.turn("in_process"):
                expected = await InProcessLoad(self.servers["in_process"], model).features(_CHECKED_ROWS)
            for contender in CONTENDERS:
                if contender.server == name and contender.caller is not None:
                    load = CallerLoad(contender.caller, self._addresses[name], model)
                    await self._until_ready(name, partial(load.check, expected))

    async def _until_ready(self, name: str, attempt: Callable[[], Awaitable[object]]) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                async with asyncio.timeout(_ATTEMPT_S):
                    await attempt()
            except ParityError:
                raise
            except Exception:  # each protocol has another error for a server that is not ready
                if not self.servers[name].running or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                return
