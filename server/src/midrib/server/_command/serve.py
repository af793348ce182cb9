"""`midrib serve`: run a server from its settings until it has drained."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import uvloop

from midrib.backbones import keep_freed_memory
from midrib.server._command.memory_watch import MemoryWatch
from midrib.server._command.watchdog import ExitWatchdog
from midrib.server._observability import logs
from midrib.server._server import Server
from midrib.server._settings import Settings

logger = logging.getLogger(__name__)

# Beyond the grace: to answer the calls of abandoned batches, and to send the last traces.
_AFTER_GRACE_S = 4.0
# For threads that modules have left, after the last line of output.
_LEFT_THREADS_S = 1.0
# The number of new objects before a collection, and of smaller collections before each larger one. gRPC leaves calls in
# reference cycles, about 80 KB each, and under load they live long enough to need the largest collection.
_COLLECTIONS = (700, 5, 1)


def run(settings: Settings, *, as_json: bool) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Raises any error of loading, ConnectionError if the address is not available, and ValueError if there is nothing to
    serve.
    """
    if not settings.backbones and not settings.admin:
        raise ValueError(
            "nothing to serve: name a backbone, as in `midrib serve image/classification/efficientnet-lite0`; "
            "`midrib list` shows them"
        )
    if settings.imports:
        # Modules in the current folder are found, as by `python -m`; the folder is last, so that it hides no package.
        sys.path.append(str(Path.cwd()))
    logs.set_up(settings.log_format)
    keep_freed_memory()
    for host, port in (
        (settings.host, settings.port),
        (settings.host, settings.http_port),
        ("127.0.0.1", settings.admin_port),
    ):
        check_address(host, port or 0)
    uvloop.run(_serve(settings, _Reporter(as_json=as_json), ExitWatchdog()))


def check_address(host: str, port: int) -> None:
    """Raise ConnectionError if no server can listen on an address; gRPC would also print lines of its C++ code.

    port: 0 is any free one.
    """
    try:
        family = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        advice = (
            "choose another port, or 0 for a free one" if error.errno == errno.EADDRINUSE else "check host and port"
        )
        reason = str(error.strerror).partition(" (")[0]
        raise ConnectionError(f"cannot listen on {host}:{port}: {reason}: {advice}") from error


async def _serve(settings: Settings, reporter: _Reporter, watchdog: ExitWatchdog) -> None:
    started = time.monotonic()
    server = Server(settings)
    await server.start()
    try:
        stop = _stop_signal()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
        addresses = {"address": server.address, "http": server.http_address}
        http = f" and {'http' if settings.tls_certificate is None else 'https'}://{server.http_address}"
        places = server.address + (http if server.http_address else "")
        reporter.report("loading", f"listening on {places}, loading ...", **addresses)
        progress = _LoadProgress(settings, shown=not reporter.as_json)
        loading = asyncio.create_task(server.load(on_progress=progress.show))
        stopping = asyncio.create_task(stop.wait())
        with logs.without_sentences() if settings.log_format == "text" else contextlib.nullcontext():
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await loading
        watch = _settle_memory(server)
        if not stop.is_set():
            _announce(server, reporter, time.monotonic() - started)
            await stopping
        if watch is not None:
            watch.close()
        loading.cancel()
        watchdog.exits_within(settings.drain_grace_s + _AFTER_GRACE_S)
        reporter.report("draining", "draining: finishing the accepted items ...")
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop()
    reporter.report("stopped", "stopped")
    watchdog.exits_within(_LEFT_THREADS_S)


def _settle_memory(server: Server) -> MemoryWatch | None:
    """Prepare the memory of this process for serving; return its watch, unless backbones compute here."""
    gc.collect()
    # A full collection visits every object of torch and of the backbones: it stopped the event loop for 300 ms.
    gc.freeze()
    # A full collection waits until a quarter of the objects that the last one left are new: with nothing left,
    # calls that gRPC leaves in reference cycles are soon freed.
    gc.collect()
    gc.set_threshold(*_COLLECTIONS)
    if server.settings.workers == "thread":  # also for backbones that are loaded later
        return None
    loads = [entry.loaded for entry in server.catalogue.entries.values() if entry.loaded is not None]
    return MemoryWatch() if all(loaded.worker_states() for loaded in loads) else None


def _stop_signal() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def _announce(server: Server, reporter: _Reporter, seconds: float) -> None:
    served = []
    scheme = "grpc" if server.settings.tls_certificate is None else "grpcs"
    for entry in server.catalogue.entries.values():
        loaded = entry.ready()
        described, plan = loaded.served.description, loaded.plan
        url = f"{scheme}://{server.address}/{described.name}"
        fields = {"url": url, "revision": described.revision, "num_features": described.num_features}
        served.append({**fields, "plan": None if plan is None else plan.fields})
        reporter.report(
            None,
            f"  {url}\n    {described.num_features} features, {described.dtype} on {described.device}, "
            f"revision {described.revision[:12]}" + (f"\n    {plan.text}" if plan is not None else ""),
        )
    reporter.report("ready", f"ready after {seconds:.1f} s", address=server.address, backbones=served)


class _Reporter:
    """Print the state of the server: lines for people, or JSON lines with an `event` for programs.

    If stdout is closed or its disk is full, it prints nothing more and the server continues.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def report(self, event: str | None, sentence: str, **fields: Any) -> None:
        if not self.as_json:
            _print(sentence, sys.stdout)
        elif event is not None:
            _print(json.dumps({"event": event, **fields}), sys.stdout)


class _LoadProgress:
    """Print on stderr which of several backbones is loading, and which are ready.

    shown: False prints nothing. Nor is anything printed for a single backbone, or among log lines in JSON.
    """

    def __init__(self, settings: Settings, *, shown: bool) -> None:
        self._names = [requested.name for requested in settings.backbones]
        self._shown = shown and len(self._names) > 1 and settings.log_format == "text"
        self._began = time.monotonic()

    def show(self, index: int, event: str) -> None:
        """Print a line for a backbone, by its index in the settings. event: "loading" or "ready"."""
        place = f"{index + 1} of {len(self._names)}: {self._names[index]}"
        if event == "loading":
            self._began = time.monotonic()
            line = f"loading {place} ..."
        else:
            line = f"ready   {place}, after {time.monotonic() - self._began:.1f} s"
        if self._shown:
            _print(line, sys.stderr)


def _print(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be written (%s): the server continues without it", stream.name, error)
        # At exit the interpreter would flush the buffered output again, fail, and change its exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
