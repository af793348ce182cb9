"""Which entries a listing asks for, and the order in which people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from midrib.registry._entry import Entry


class Selection(NamedTuple):
    """Entries by wildcard and by what they declare.

    patterns: any of these must match the key or the name; none asks for all.  exclude: none of these may.
    catalogues: whether whole catalogues (ExternalRegistry) are asked for their names, which may import a library.
    """

    patterns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    catalogues: bool = True
    declared: Mapping[str, Any] = MappingProxyType({})

    def takes(self, entry: Entry) -> bool:
        """Whether the entry is asked for."""
        wanted = not self.patterns or _matches(entry, self.patterns)
        return wanted and not _matches(entry, self.exclude) and entry.fits(self.declared)


def as_patterns(patterns: str | Iterable[str] | None) -> tuple[str, ...]:
    """One wildcard, several or none, as a tuple."""
    if patterns is None:
        return ()
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def natural(key: str) -> tuple[list[Any], str]:
    """A sort key under which mlp-2 comes before mlp-10, and case decides last."""
    parts = re.split(r"(\d+)", key)
    return [int(part) if odd % 2 else part.casefold() for odd, part in enumerate(parts)], key


def _matches(entry: Entry, patterns: tuple[str, ...]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (entry.key, entry.name))
