"""Which entries a listing selects, and the order in which people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from midrib.registry._entry import Entry


class Selection(NamedTuple):
    """A choice of entries by wildcards and declarations.

    patterns: at least one of these must match the key or the name; an empty tuple selects all entries.
    exclude: none of these may match.
    catalogues: whether to list whole catalogues (ExternalRegistry), which may import a library.
    declared: the metadata that the entries must declare.
    """

    patterns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    catalogues: bool = True
    declared: Mapping[str, Any] = MappingProxyType({})

    def takes(self, entry: Entry) -> bool:
        """Return whether the entry is selected."""
        included = not self.patterns or _matches(entry, self.patterns)
        return included and not _matches(entry, self.exclude) and entry.fits(self.declared)


def as_patterns(patterns: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the wildcards in lower case; a word without a wildcard matches anywhere in a name."""
    if patterns is None:
        return ()
    several = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    return tuple((pattern if re.search(r"[*?[]", pattern) else f"*{pattern}*").casefold() for pattern in several)


def natural(key: str) -> tuple[list[Any], str]:
    """Return a sort key that puts mlp-2 before mlp-10 and ignores case unless all else is equal."""
    parts = re.split(r"(\d+)", key)
    return [int(part) if odd % 2 else part.casefold() for odd, part in enumerate(parts)], key


def _matches(entry: Entry, patterns: tuple[str, ...]) -> bool:
    from fnmatch import fnmatchcase

    names = (entry.key.casefold(), entry.name.casefold())
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
