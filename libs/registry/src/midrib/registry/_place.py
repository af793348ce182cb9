"""Where in somebody's code a registration was written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import NamedTuple

_OWN_PACKAGE = __name__.rpartition(".")[0]

# The plugin that is being loaded: its top package, and its distribution's name and version.
_loading: ContextVar[tuple[str, tuple[str, str] | None]] = ContextVar("_loading", default=("", None))


class Place(NamedTuple):
    """A line of code; line 0 is none in particular.

    distribution: name and version of the plugin's package; None for what no entry point led to.
    """

    file: str
    line: int
    module: str = ""
    distribution: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def installed(self) -> tuple[str | None, str | None]:
        """Name and version of the installed distribution that holds the module, or None, None."""
        if self.distribution:
            return self.distribution
        from importlib import metadata

        top, *rest = self.module.split(".")
        if getattr(sys.modules.get(top), "__file__", None) is None:
            # In a namespace package, such as midrib, a.b.c is taken to live in the distribution a-b.
            for own in metadata.distributions(name="-".join([top, *rest[:1]])):
                return own.name, own.version
        # A tenth of a second, in which every distribution is asked what it holds.
        names = {*metadata.packages_distributions().get(top, [])}
        return next(((name, metadata.version(name)) for name in names if len(names) == 1), (None, None))


def caller_frame(outside: str) -> tuple[FrameType, int]:
    """The nearest frame outside this package of packages, and how many frames above our caller it is."""
    # Not inspect.stack, which reads every file: milliseconds a registration.
    frame, distance = sys._getframe(1), 0  # noqa: SLF001
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(f"{outside}."):
        frame, distance = frame.f_back, distance + 1
    return frame, distance


def calling_place() -> Place:
    """The line outside this package that is being run."""
    frame, _ = caller_frame(_OWN_PACKAGE)
    module = frame.f_globals.get("__name__", "")
    plugin, distribution = _loading.get()
    return Place(frame.f_code.co_filename, frame.f_lineno, module, distribution if _top(module) == plugin else None)


@contextmanager
def loading(module: str, distribution: tuple[str, str] | None) -> Iterator[None]:
    """Credit what the module's package registers meanwhile to this distribution."""
    token = _loading.set((_top(module), distribution))
    try:
        yield
    finally:
        _loading.reset(token)


def _top(module: str) -> str:
    return module.partition(".")[0]
