"""URL-like names, which other packages open through the entry-point group midrib.resolvers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from midrib.registry._entry import Entry
from midrib.registry._errors import UnknownKeyError
from midrib.registry._place import SourceLine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "midrib.resolvers"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_KNOWN_PACKAGES = {"grpc": "midrib-remote", "grpcs": "midrib-remote"}


def is_url(key: str) -> bool:
    """Return whether the key is a URL, scheme://…, for a resolver to open."""
    return _URL.match(key) is not None


def resolve(url: str) -> Entry:
    """Return the entry whose loader opens the URL.  Raises UnknownKeyError, with the install line if it is known."""
    from importlib.metadata import entry_points

    scheme = url.partition("://")[0].lower()
    # Not cached: opening a URL takes far longer, and a package that is installed meanwhile is found.
    for point in entry_points(group=GROUP, name=scheme):
        distribution = (point.dist.name, point.dist.version) if point.dist else None
        place = SourceLine(f"entry point {point.value}", 0, point.module, distribution)
        return Entry(url, functools.partial(_loaded(point), url), place)
    raise UnknownKeyError(_advice(url, scheme))


def _loaded(point: EntryPoint) -> Callable[..., Any]:
    """Return the resolver of an entry point. Raises ImportError if it cannot be imported."""
    try:
        opener: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise ImportError(f"the resolver for {point.name}:// ({point.value}) cannot be imported: {error}") from error
    return opener


def _advice(url: str, scheme: str) -> str:
    if package := _KNOWN_PACKAGES.get(scheme):
        return f"{url!r} needs the resolver for {scheme}://, not installed here: pip install {package}"
    return (
        f"{url!r} has the scheme {scheme!r}, which no installed package opens: write grpc://host:port/namespace/name "
        f"for a server of Midrib, or install a package that adds {scheme}:// by the entry point {GROUP}"
    )
