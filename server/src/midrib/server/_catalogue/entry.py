"""A served name, and the state of its backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.description import State
from midrib.wire import BackboneLoadingError, UnavailableError


@dataclass
class CatalogueEntry:
    """One served name, from the moment a load is requested.

    arguments: the loader's arguments, with which `loaded` was loaded.
    """

    name: str
    state: State = State.LOADING
    loaded: Loaded | None = None
    error: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def serving(self) -> bool:
        """Whether it is ready, and not all of its workers are being replaced."""
        return self.state is State.READY and (self.loaded is None or self.loaded.served.has_workers())

    def ready(self) -> Loaded:
        """Return the loaded backbone; raises BackboneLoadingError or UnavailableError if it is not loaded."""
        if self.loaded is not None:
            return self.loaded
        if self.state is State.FAILED:
            raise UnavailableError(f"backbone {self.name!r} failed: {self.error}")
        if self.state is State.DRAINING:
            raise UnavailableError(f"backbone {self.name!r} is being unloaded: try another server")
        raise BackboneLoadingError(f"backbone {self.name!r} is loading: try again shortly", retry_after=1.0)
