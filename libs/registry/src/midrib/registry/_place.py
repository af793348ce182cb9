"""The line of code of a registration."""

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


class SourceLine(NamedTuple):
    """A line of code; line 0 if it is not known.

    distribution: name and version of the plugin's package; None if no entry point led to the registration.
    """

    file: str
    line: int
    module: str = ""
    distribution: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def installed(self) -> tuple[str | None, str | None]:
        """Return name and version of the installed distribution that holds the module, or None, None."""
        if self.distribution:
            return self.distribution
        from importlib import metadata

        top, *rest = self.module.split(".")
        if getattr(sys.modules.get(top), "__file__", None) is None:
            # In a namespace package, such as midrib, a.b.c is taken to live in the distribution a-b.
            for distribution in metadata.distributions(name="-".join([top, *rest[:1]])):
                return distribution.name, distribution.version
        # It takes a tenth of a second, because it reads the file list of every distribution.
        names = {*metadata.packages_distributions().get(top, [])}
        return next(((name, metadata.version(name)) for name in names if len(names) == 1), (None, None))


def caller_frame(outside: str) -> tuple[FrameType, int]:
    """Return the nearest frame outside the package `outside`, and the number of frames between it and our caller."""
    # Not inspect.stack, which reads every file and takes milliseconds.
    frame, distance = sys._getframe(1), 0  # noqa: SLF001
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(f"{outside}."):
        frame, distance = frame.f_back, distance + 1
    return frame, distance


def calling_place() -> SourceLine:
    """Return the line outside this package that called it."""
    frame, _ = caller_frame(_OWN_PACKAGE)
    module = frame.f_globals.get("__name__", "")
    plugin, distribution = _loading.get()
    return SourceLine(
        frame.f_code.co_filename, frame.f_lineno, module, distribution if _top(module) == plugin else None
    )


@contextmanager
def loading(module: str, distribution: tuple[str, str] | None) -> Iterator[None]:
    """Attribute the registrations of the module's package in this block to this distribution."""
    token = _loading.set((_top(module), distribution))
    try:
        yield
    finally:
        _loading.reset(token)


def _top(module: str) -> str:
    return module.partition(".")[0]
