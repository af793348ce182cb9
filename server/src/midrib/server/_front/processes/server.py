"""A gRPC server whose connections are carried by several processes; its calls run in this one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import grpc

from midrib.server._front.call import ignore_refusal
from midrib.server._front.calls import Calls
from midrib.server._front.limits import FrontLimits
from midrib.server._front.listener import PortTls
from midrib.server._front.processes.front import Front, FrontEvents, FrontPort
from midrib.server._front.processes.logs import ForwardedLog
from midrib.server._front.processes.metrics import FrontCollector
from midrib.server._front.processes.ports import SharedPort

logger = logging.getLogger(__name__)

_START_S = 60.0
# Seconds after the grace for the last statuses, and then for the last bytes of connections.
_LAST_S = 0.5
# Seconds until a process that has ended is replaced: doubled each time, unless the process has lasted.
_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 10.0
_LASTING_S = 30.0


class FrontProcesses:
    """The server. Its methods are those of `grpc.aio.Server` that Midrib's server calls.

    limits: the limits of each connection.  interceptors: the outermost first.  number: how many processes to run.
    refused: called with the reason of each call that a limit or a rule of gRPC ends.
    fronts: the running processes, by their numbers from 0.  restarts: the number of processes that were replaced.
    metrics: collects the state of the processes for Prometheus.
    """

    def __init__(
        self,
        limits: FrontLimits,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        number: int,
        refused: Callable[[str], None] = ignore_refusal,
    ) -> None:
        self.fronts: dict[int, Front] = {}
        self.restarts = 0
        self.metrics = FrontCollector(self.fronts, lambda: self.restarts)
        self._limits = limits
        self._number = number
        self._calls = Calls(limits.max_message_bytes, interceptors, refused=refused)
        self._ports: list[FrontPort] = []
        self._log = ForwardedLog()
        self._delays_s: dict[int, float] = {}
        self._is_stopping = False
        self._change = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        self._calls.add_services(handlers)

    def add_port(self, address: str, tls: PortTls | None = None) -> int:
        """Reserve "host:port" for the processes; return the port. Raises OSError if the address cannot be used."""
        host, _, port = address.rpartition(":")
        shared = SharedPort(host.strip("[]"), int(port))
        self._ports.append(FrontPort(shared, tls))
        return shared.number

    async def start(self) -> None:
        """Start the processes. Calls run in copies of the present context.

        Raises OSError if the system starts no process, RuntimeError if one ends or does not accept connections in time.
        """
        self._calls.use_present_context()
        for number in range(self._number):
            self._launch(number)
        try:
            async with asyncio.timeout(_START_S):
                while not all(front.is_ready for front in self.fronts.values()):
                    await self._next_change()
        except TimeoutError:
            problem = f"the front processes did not start within {_START_S:g} s"
            raise RuntimeError(f"{problem}: free processor time, or set fronts to 1") from None
        if len(self.fronts) < self._number:
            raise RuntimeError(
                f"{self._number - len(self.fronts)} front processes ended as they started: the log on stderr says why"
            )

    async def stop(self, grace: float) -> None:
        """Accept no connections, ask clients to go, and wait for calls for `grace` seconds; then end the rest."""
        self._is_stopping = True
        for front in self.fronts.values():
            front.drain()
        for port in self._ports:
            port.shared.close()
        await self._wait_ended(grace)
        self._calls.cancel_all(grpc.StatusCode.UNAVAILABLE, "the server stops: call another one")
        await self._wait_ended(_LAST_S)
        for front in self.fronts.values():
            front.close()
        await self._wait_ended(_LAST_S)
        for front in list(self.fronts.values()):
            front.kill()

    async def _wait_ended(self, seconds: float) -> None:
        """Wait until all processes have ended, for `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                while self.fronts:
                    await self._next_change()
        except TimeoutError:
            return

    async def _next_change(self) -> None:
        self._change.clear()
        await self._change.wait()

    def _launch(self, number: int) -> None:
        """Start a process. Raises OSError if the system refuses it."""
        began_s = asyncio.get_running_loop().time()
        ended = partial(self._front_ended, number, began_s)
        events = FrontEvents(ready=self._change.set, ended=ended, log=partial(self._log.write, number))
        self.fronts[number] = Front(self._ports, self._limits, self._calls, events)

    def _front_ended(self, number: int, began_s: float) -> None:
        front = self.fronts.pop(number)
        self._change.set()
        if self._is_stopping:
            return
        loop = asyncio.get_running_loop()
        lasted = loop.time() - began_s > _LASTING_S
        delay_s = _FIRST_DELAY_S if lasted else self._delays_s.get(number, _FIRST_DELAY_S)
        self._delays_s[number] = min(2 * delay_s, _LONGEST_DELAY_S)
        logger.error("front process %d (pid %d) ended: another one starts in %g s", number, front.pid, delay_s)
        loop.call_later(delay_s, self._replace, number)

    def _replace(self, number: int) -> None:
        if self._is_stopping:
            return
        self.restarts += 1
        try:
            self._launch(number)
        except OSError:
            logger.exception("front process %d cannot be started: the next attempt is in 10 s", number)
            asyncio.get_running_loop().call_later(_LONGEST_DELAY_S, self._replace, number)
