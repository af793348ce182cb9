"""The served backbones by name: load, swap and unload them while the server runs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from midrib.backbones import release_freed_memory
from midrib.registry import AbstractRegistry
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.eviction import Resident, evictions
from midrib.server._catalogue.idle_calibration import IdleCalibration
from midrib.server._catalogue.loading import Loaded, load
from midrib.server._catalogue.names import LONGEST_NAME, not_served
from midrib.server._catalogue.worker_metrics import WorkerCollector
from midrib.server._engine.description import State
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server._errors import public_error, release_frames
from midrib.server._foreign import in_thread
from midrib.server._intake.media import MediaPool
from midrib.server._observability.accounting import Accounting
from midrib.server._observability.metrics import Metrics
from midrib.server._settings import BackboneSettings, Settings
from midrib.wire import (
    BackboneLoadingError,
    BackboneNotFoundError,
    InvalidInputError,
    RevisionMismatchError,
    UnavailableError,
)

if TYPE_CHECKING:
    from midrib.server._observability.tracing import Tracing

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Catalogue:
    """The served backbones of one server.

    on_change: called with every entry whose state, or whose running workers, have changed, for the health service.
    starting: whether the names to serve are not yet known, so that an unknown name may be one of them.
    """

    def __init__(
        self,
        settings: Settings,
        registry: AbstractRegistry,
        *,
        on_change: Callable[[CatalogueEntry], None] = lambda _entry: None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.entries: dict[str, CatalogueEntry] = {}
        self.aliases: dict[str, str] = {}
        self.complete = False
        self.starting = False
        self.closing = asyncio.Event()
        self.metrics = Metrics(self.served)
        self.metrics.registry.register(WorkerCollector(self.entries.values))
        self.accounting = Accounting(self.metrics.registry)
        self.tracing: Tracing | None = None
        self._on_change = on_change
        # One at a time: two backbones that each fit may not fit together.
        self._loading = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._media_pool = MediaPool(settings)
        self._idle_calibration = IdleCalibration(self._serving, self._loading.locked, settings.recalibrate_after_idle_s)

    @property
    def ready(self) -> bool:
        """Whether every backbone of the settings has been loaded, and the server is not stopping."""
        return self.complete and not self.closing.is_set()

    def served(self) -> list[ServedBackbone]:
        """Return the backbones that take items now."""
        return [loaded.served for loaded in self._serving()]

    def _serving(self) -> list[Loaded]:
        return [entry.loaded for entry in self.entries.values() if entry.loaded is not None]

    def entry(self, name: str) -> CatalogueEntry:
        """Return the entry of `namespace/name`, of an alias, or of a name that only one served backbone has.

        name: `@` and a revision, or its first digits, may follow.
        Raises BackboneNotFoundError with the nearest names, RevisionMismatchError for another revision.
        """
        name, _, revision = name.partition("@")
        entry = self._entry(self.aliases.get(name, name))
        if not revision:
            return entry
        served = "" if entry.loaded is None else entry.loaded.served.description.revision
        if served and not served.startswith(revision):
            raise RevisionMismatchError(
                f"backbone {entry.name!r} is at revision {served[:12]}, the name asks for {revision[:12]!r}"
            )
        return entry

    def _entry(self, name: str) -> CatalogueEntry:
        """Return the entry of a name. Raises BackboneNotFoundError, or BackboneLoadingError while the server starts."""
        if name in self.entries:
            return self.entries[name]
        matches = [entry for key, entry in self.entries.items() if key.endswith("/" + name)]
        if name and len(matches) == 1:
            return matches[0]
        if self.starting:
            raise BackboneLoadingError(
                f"the server is starting and has not loaded {name!r:.80}: try again shortly", retry_after=1.0
            )
        raise not_served(name, self.entries)

    def expect(self, requested: BackboneSettings) -> CatalogueEntry:
        """Return the entry of a backbone that is about to be loaded; from now on its callers are asked to wait.

        Raises the errors of `canonical_name`.
        """
        name = self.canonical_name(requested.name)
        if name not in self.entries:
            self.entries[name] = CatalogueEntry(name)
            self._change(self.entries[name], State.LOADING)
        self.aliases.update(dict.fromkeys(requested.aliases, name))
        return self.entries[name]

    async def load(self, requested: BackboneSettings, *, replace: bool = True) -> tuple[CatalogueEntry, list[str]]:
        """Load, warm and start serving; an older revision of the same name serves until then, then drains.

        replace: whether a backbone that serves this name with other arguments may be replaced.
        Returns the entry, and the names of the idle backbones that were unloaded to make room.
        Raises any error of the loader, LimitExceededError if it does not fit, InvalidInputError if it would replace
        other arguments. A name that was serving keeps its present backbone then.
        """
        self.expect(requested)
        return await self._transaction(self._load_and_serve(requested, replace=replace))

    async def _load_and_serve(self, requested: BackboneSettings, *, replace: bool) -> tuple[CatalogueEntry, list[str]]:
        async with self._loading:
            entry = self.expect(requested)  # an unload may have removed it meanwhile
            if not replace:
                _check_same_arguments(entry, requested)
            before = entry.loaded
            try:
                loaded, evicted = await self._load_and_start(requested)
            except Exception as error:
                if before is None:
                    # The loader's message may name files: it is for the log.
                    self._change(entry, State.FAILED, error=public_error(error, "it could not be loaded").message)
                release_frames(error)
                raise
            self._watch(loaded.served)
            loaded.served.on_lost = partial(self._lost, entry, loaded)
            loaded.served.on_workers = partial(self._on_change, entry)
            entry.loaded, entry.arguments = loaded, dict(requested.arguments)
            self._change(entry, State.READY)
            self._idle_calibration.start()
        if before is not None:
            await self._end(before.served)
            before = None  # the last reference to its weights
        await asyncio.to_thread(release_freed_memory)
        return entry, evicted

    async def _load_and_start(self, requested: BackboneSettings) -> tuple[Loaded, list[str]]:
        loaded = await self._load(requested)
        try:
            evicted = self._evictions(loaded)
            for evicted_name in evicted:
                await self._unload(evicted_name)
            await loaded.served.start()
        except BaseException:
            loaded.discard()
            raise
        return loaded, evicted

    async def plan(self, requested: BackboneSettings) -> tuple[CatalogueEntry, list[str]]:
        """Load a backbone as `load` does, and discard it: return the same result. Raises as `load` does."""
        loaded = await self._load(requested)
        try:
            return CatalogueEntry(loaded.served.description.name, loaded=loaded), self._evictions(loaded)
        finally:
            loaded.discard()

    async def unload(self, name: str) -> None:
        """Finish the items that a backbone has accepted, then stop serving it."""
        self.entry(name)
        await self._transaction(self._unload_and_free(name))

    async def _unload_and_free(self, name: str) -> None:
        async with self._loading:
            await self._unload(name)
        # The command froze all objects of its start (gc.freeze); a module in a reference cycle would never be freed.
        gc.unfreeze()
        await asyncio.to_thread(release_freed_memory)

    async def _transaction(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change to its end, also if its caller leaves meanwhile."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._settle_change)
        return await asyncio.shield(task)

    def _settle_change(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have left; an error that nobody reads would be logged again

    async def _end(self, served: ServedBackbone) -> None:
        """Let a backbone finish its items within the grace of a drain."""
        await served.end(
            self.settings.drain_grace_s, UnavailableError("the backbone was unloaded before this item was computed")
        )

    async def _unload(self, name: str) -> None:
        entry = self.entry(name)
        loaded, entry.loaded = entry.loaded, None
        self._change(entry, State.DRAINING)
        if loaded is not None:
            await self._end(loaded.served)
        if entry.loaded is None:
            self.entries.pop(entry.name, None)

    def _lost(self, entry: CatalogueEntry, loaded: Loaded) -> None:
        if entry.loaded is loaded:
            entry.loaded = None
            error = "its replicas were lost and could not be replaced: the server's log says why"
            self._change(entry, State.FAILED, error=error)

    async def _load(self, requested: BackboneSettings) -> Loaded:
        loading = partial(load, requested, self.settings, self.registry, self._media_pool)
        return await in_thread(loading, f"loading {requested.name!r}")

    def _watch(self, served: ServedBackbone) -> None:
        served.on_batch.append(self.metrics.of(served))
        if self.settings.tokens is not None:
            served.on_batch.append(self.accounting.observe_batch)
        if self.tracing is not None:
            served.on_batch.append(partial(self.tracing.observe_batch, served))

    def _evictions(self, loaded: Loaded) -> list[str]:
        if self.settings.device_memory_bytes is None:
            return []
        residents = [
            Resident(
                entry.name,
                entry.loaded.weight_bytes,
                entry.loaded.served.totals.last,
                movable=entry.loaded.served.idle and not entry.loaded.pinned,
            )
            for entry in self.entries.values()
            if entry.loaded is not None and entry.name != loaded.served.description.name
        ]
        return evictions(residents, loaded.weight_bytes, self.settings.device_memory_bytes)

    async def close(self, grace_s: float) -> None:
        """Finish the accepted items within the grace, then fail the rest as retriable."""
        self.closing.set()
        self._idle_calibration.close()
        serving = self.served()
        for entry in self.entries.values():
            self._change(entry, State.DRAINING)
        for change in list(self._changes):
            change.cancel()
        stopped = UnavailableError("the server stopped before this item was computed: try another")
        await asyncio.gather(*(served.end(grace_s, stopped) for served in serving))
        self._media_pool.close()

    def canonical_name(self, name: str) -> str:
        """Return `namespace/name` of a registered name.

        Raises BackboneNotFoundError if the registry has none, ValueError if several match.
        """
        if len(name) > LONGEST_NAME:
            raise BackboneNotFoundError(f"no backbone {name[:LONGEST_NAME] + '...'!r} is registered")
        try:
            return self.registry.describe(name).key
        except KeyError as error:
            raise BackboneNotFoundError(str(error)) from error

    def _change(self, entry: CatalogueEntry, state: State, *, error: str = "") -> None:
        entry.state, entry.error = state, error
        logger.info("backbone %s: %s%s", entry.name, state.value, f" ({error})" if error else "")
        self._on_change(entry)


def _check_same_arguments(entry: CatalogueEntry, requested: BackboneSettings) -> None:
    """Raise InvalidInputError if the backbone is served with other arguments than the requested ones."""
    if entry.loaded is not None and entry.arguments != requested.arguments:
        raise InvalidInputError(
            f"backbone {entry.name!r} is served with arguments {entry.arguments}, received {requested.arguments}: "
            "set replace to serve the new one to every client, or unload the old one first",
            field="replace",
        )
