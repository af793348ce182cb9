"""Descriptions of entries: plain frozen data, JSON by as_dict(), and tables for notebooks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from midrib.registry._contract import install_line, missing_libraries
from midrib.registry._entry import Entry, unwrapped
from midrib.registry._inputs import InputSpec


@dataclass(frozen=True, kw_only=True)
class Description:
    """One line of a listing.

    missing: the libraries that it requires and that are not installed here; install: the command that installs
    them, None if nothing is missing.  summary: the first line of the loader's docstring.  metadata: the free metadata.
    remote_arguments: arguments of the loader that clients of a server may set; None if that was not declared.
    """

    key: str
    name: str
    namespace: str | None
    input: InputSpec | None
    num_features: int | None
    providers: tuple[str, ...]
    license: str | None
    aliases: tuple[str, ...]
    deprecated_aliases: tuple[str, ...]
    requires: tuple[str, ...]
    missing: tuple[str, ...]
    install: str | None
    remote_arguments: tuple[str, ...] | None
    summary: str
    metadata: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in JSON's types; an input spec gets a "kind"."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Explanation(Description):
    """A description, with where the entry comes from.

    where: file:line of the registration.  package, version: the installed distribution that registered it, if any.
    signature: the loader's.  shadows: the entries of the key in the registries further right, as "key (file:line)".
    """

    where: str
    module: str
    package: str | None
    version: str | None
    signature: str
    shadows: tuple[str, ...]


def describe(entry: Entry) -> Description:
    """Return the declarations of the entry, and whether it can be loaded here."""
    return Description(**_described(entry))


def explain(entry: Entry, shadowed: Iterable[Entry]) -> Explanation:
    """Return the description, and where the entry comes from."""
    package, version = entry.place.installed()
    return Explanation(
        **_described(entry),
        where=str(entry.place),
        module=entry.place.module,
        package=package,
        version=version,
        signature=_signature(entry),
        shadows=tuple(f"{other.key} ({other.place})" for other in shadowed),
    )


def _described(entry: Entry) -> dict[str, Any]:
    same = (
        "key",
        "name",
        "namespace",
        "input",
        "num_features",
        "license",
        "aliases",
        "deprecated_aliases",
        "requires",
        "remote_arguments",
    )
    missing = missing_libraries(entry.requires)
    return {
        **{name: getattr(entry, name) for name in same},
        "providers": tuple(map(str, entry.providers)),
        "missing": missing,
        "install": install_line(entry.requires, entry.install) if missing else None,
        "summary": (inspect.getdoc(unwrapped(entry.fn)) or "").partition("\n")[0],
        "metadata": dict(entry.tags),
    }


def _signature(entry: Entry) -> str:
    try:
        return str(inspect.signature(entry.fn))
    except (TypeError, ValueError):
        return "(...)"


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, InputSpec):
        kind = type(value).__name__.removesuffix("Input").lower()
        return {"kind": kind} | {name: _plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value)


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML; every text is escaped, and None is an empty cell."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"<td>{'' if value is None else escape(str(value))}</td>"
