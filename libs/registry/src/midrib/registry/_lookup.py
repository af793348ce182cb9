"""Look-ups and listings, over the few methods in which registries differ, and several registries as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

from midrib.registry._entry import DECLARED, Entry, Loader, Registering
from midrib.registry._errors import AmbiguousKeyError
from midrib.registry._inputs import in_words
from midrib.registry._resolvers import is_url, resolve
from midrib.registry._selection import Selection, as_patterns, natural
from midrib.registry._unknown import unknown_key, unknown_metadata

if TYPE_CHECKING:
    from midrib.registry._description import Description, Explanation
    from midrib.registry._plugins import PluginFailure

Entries: TypeAlias = tuple[Entry, ...]
Keys: TypeAlias = list[str]
_KNOWN_METADATA = frozenset({"namespace", "pretrained", "family", *DECLARED})


class AbstractRegistry(ABC):
    """Map names to loaders: the common part of Registry, ConcatRegistry and ExternalRegistry."""

    name: str

    @abstractmethod
    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        """Yield the entries of this key: a group for each registry that has any, left to right."""

    @abstractmethod
    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the entries that the selection takes, in any order."""

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:  # noqa: ARG002 (only a catalogue has any)
        """Yield entries of catalogues that cannot list their names: searched last, because any key may exist there."""
        return iter(())

    def nearby(self, key: str) -> Keys:  # noqa: ARG002 (a catalogue looks at it)
        """Return the keys that a mistyped key is compared with."""
        return [spelling for entry in self.entries(Selection()) for spelling in (entry.key, entry.name)]

    def install_hint(self, key: str) -> str | None:  # noqa: ARG002 (a catalogue looks at it)
        """Return the command that installs a package that may provide this key, None if none is known."""
        return None

    def prefixes(self) -> Keys:
        """Return the prefixes of whole catalogues, each with its install line if it is not installed."""
        return []

    @property
    def plugin_failures(self) -> tuple[PluginFailure, ...]:
        """The plugins that could not be loaded, each with its reason."""
        return ()

    def refresh(self) -> None:
        """Look again for plugins, if the registry has any."""
        return

    @overload
    def get(
        self, key: str, with_metadata: Literal[False] = ..., strict: Literal[True] = ..., **metadata: Any
    ) -> Loader: ...
    @overload
    def get(self, key: str, with_metadata: Literal[True], strict: Literal[True] = ..., **metadata: Any) -> Entry: ...
    @overload
    def get(
        self, key: str, with_metadata: Literal[False] = ..., *, strict: Literal[False], **metadata: Any
    ) -> list[Loader]: ...
    @overload
    def get(self, key: str, with_metadata: Literal[True], strict: Literal[False], **metadata: Any) -> list[Entry]: ...

    def get(self, key: str, with_metadata: bool = False, strict: bool = True, **metadata: Any) -> Any:
        """Return the loader that the key leads to.

        key: "name", "namespace/name", or a URL that an installed resolver opens.
        with_metadata: the whole Entry, instead of its loader.
        strict: one match, or an error; False: a list of all matches, left to right.
        metadata: declarations that the entry must have; namespace=None picks the entry without a namespace.
        Raises UnknownKeyError or AmbiguousKeyError, which are KeyErrors. Warns once for each deprecated name.
        """
        matches = self._found(key, metadata, strict=strict)
        for entry in matches:
            entry.warn_if_deprecated(key)
        results = [entry if with_metadata else entry.fn for entry in matches]
        return results[0] if strict else results

    def load(self, key: str, /, **kwargs: Any) -> tuple[Any, int]:
        """Call the loader that the key leads to, and return its (module, num_features), checked.

        Raises the errors of get, MissingLibraryError, LoaderArgumentError, and ContractError for another result.
        """
        return self.get(key, with_metadata=True).load(**kwargs)

    def describe(self, key: str, **metadata: Any) -> Description:
        """Return the declarations of the key, and whether it can be loaded here."""
        from midrib.registry import _description

        return _description.describe(self._found(key, metadata)[0])

    def explain(self, key: str, **metadata: Any) -> Explanation:
        """Return the description, with the entry's file:line, package and version, and the entries that it shadows."""
        from midrib.registry import _description

        [entry] = self._found(key, metadata)
        _, *shadowed = self._candidates(key, metadata)
        return _description.explain(entry, chain.from_iterable(shadowed))

    def available_keys(self) -> Keys:
        """Return every key once, namespace and name, in natural order."""
        return sorted({entry.key for entry in self.entries(Selection())}, key=natural)

    def __contains__(self, key: object) -> bool:
        """Return whether the key leads to a listed entry; False for a URL, because only opening it can tell."""
        return isinstance(key, str) and any(True for _ in self.layers(key))

    def __len__(self) -> int:
        return sum(1 for _ in self.entries(Selection()))

    def __iter__(self) -> Iterator[str]:
        """Yield one key for each entry, in natural order."""
        return iter(sorted((entry.key for entry in self.entries(Selection())), key=natural))

    def __add__(self, other: AbstractRegistry) -> ConcatRegistry:
        """Return both registries as one, searched left to right."""
        return ConcatRegistry(self, other) if isinstance(other, AbstractRegistry) else NotImplemented

    def __str__(self) -> str:
        """Return the registry's name as errors show it."""
        return f"the registry {self.name!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _repr_html_(self) -> str:
        """Return the entries as a table, for notebooks; catalogues, which may hold thousands, are left out."""
        from midrib.registry._description import html_table

        rows = [
            (entry.key, in_words(entry.input), entry.num_features, entry.license, entry.install)
            for entry in self.list(catalogues=False)
        ]
        return html_table(str(self), ("name", "input", "num_features", "licence", "needs"), rows)

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        """Raise TypeError for a metadata name that no entry declares."""
        if metadata.keys() <= _KNOWN_METADATA:
            return
        declared = _KNOWN_METADATA | {name for entry in self.entries(Selection()) for name, _ in entry.tags}
        for name in sorted(metadata.keys() - declared):
            raise unknown_metadata(self, name, declared)

    def _candidates(self, key: str, metadata: dict[str, Any]) -> Iterator[Entries]:
        """Return the groups of entries that a key may name, closest first. Raises TypeError for other keys."""
        if not isinstance(key, str):
            raise TypeError(
                f"got {key!r:.80} of type {type(key).__name__}, expected a name of {self} as a str, such as "
                f"{next(iter(self), 'namespace/name')!r}"
            )
        if is_url(key):
            return iter([(resolve(key),)])
        return chain(self.layers(key, **metadata), self.open_layers(key, **metadata))

    def _found(self, key: str, metadata: dict[str, Any], *, strict: bool = True) -> Entries:
        """Return the entries of a key. Raises UnknownKeyError for none, and if strict AmbiguousKeyError for several."""
        layers = self._candidates(key, metadata)
        matches = next(layers, ()) if strict else tuple(chain.from_iterable(layers))
        if not matches:
            raise unknown_key(self, key, metadata)
        if strict and len(matches) > 1:
            raise _ambiguous(self, key, matches)
        return matches

    # The last method, because its name hides the builtin `list` from the annotations that follow.
    def list(
        self,
        pattern: str | Iterable[str] | None = None,
        *,
        exclude: str | Iterable[str] | None = None,
        catalogues: bool = True,
        **metadata: Any,
    ) -> tuple[Description, ...]:
        """Describe the entries that match, in natural order.

        pattern, exclude: one wildcard or several, such as "mlp-*", matched with the key and with the name in any case;
        a plain word such as "vit" matches anywhere in them.
        catalogues: False leaves out whole catalogues (ExternalRegistry), whose names may take seconds to find.
        metadata: declarations that the entries must have, such as namespace="image/classification".  pretrained=True
        selects those whose loader offers weights; family="efficientnet" that family, by declaration or name.
        Raises TypeError, with the nearest name, for metadata that no entry declares.
        """
        from midrib.registry import _description

        self._check_metadata(metadata)
        selection = Selection(as_patterns(pattern), as_patterns(exclude), catalogues, metadata)
        chosen = sorted(self.entries(selection), key=lambda entry: natural(entry.key))
        return tuple(map(_description.describe, chosen))


@runtime_checkable
class Writable(Protocol):
    """A registry that takes registrations."""

    def add(self, entry: Entry, *, override: bool = False) -> None: ...
    def remove(self, key: str, **metadata: Any) -> None: ...
    def temporary(self) -> AbstractContextManager[Any]: ...


class ConcatRegistry(Registering, AbstractRegistry):
    """Several registries, searched left to right: the first that knows a key answers.

    New entries go to its leftmost Registry.
    """

    def __init__(self, *registries: AbstractRegistry) -> None:
        flat = [part.registries if isinstance(part, ConcatRegistry) else (part,) for part in registries]
        self.registries: tuple[AbstractRegistry, ...] = tuple(part for group in flat for part in group)
        self.name = "+".join(part.name for part in self.registries)

    def __str__(self) -> str:
        # Catalogues, which a user knows by their prefixes, and empty registries of subclasses would not help a reader.
        searched = [part for part in self.registries if next(part.entries(Selection(catalogues=False)), None)]
        names = dict.fromkeys(repr(part.name) for part in searched or self.registries[:1])
        return f"the {'registry' if len(names) == 1 else 'registries'} {', '.join(names)}"

    def add(self, entry: Entry, *, override: bool = False) -> None:
        """Register an entry in the leftmost Registry.  Raises DuplicateKeyError."""
        self._leftmost().add(entry, override=override)

    def remove(self, key: str, **metadata: Any) -> None:
        """Remove from the leftmost Registry, so that the entry that it shadowed appears; see Registry.remove."""
        self._leftmost().remove(key, **metadata)

    @contextmanager
    def temporary(self) -> Iterator[ConcatRegistry]:
        """Undo every registration and removal of the block when it ends; for tests."""
        with ExitStack() as stack:
            for part in self.registries:
                if isinstance(part, Writable):
                    stack.enter_context(part.temporary())
            yield self

    def layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        """Yield the groups of all registries, left to right."""
        return (layer for part in self.registries for layer in part.layers(key, **metadata))

    def open_layers(self, key: str, **metadata: Any) -> Iterator[Entries]:
        return (layer for part in self.registries for layer in part.open_layers(key, **metadata))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Yield the entries that can be reached: an entry hides those of the same identity further right."""
        shown: dict[str, list[Any]] = {}  # the metadata of the entries of each key
        for part in self.registries:
            visible = [entry for entry in part.entries(selection) if entry.tags not in shown.get(entry.key, ())]
            for entry in visible:
                shown.setdefault(entry.key, []).append(entry.tags)
            yield from visible

    def nearby(self, key: str) -> Keys:
        return [near for part in self.registries for near in part.nearby(key)]

    def install_hint(self, key: str) -> str | None:
        return next(filter(None, (part.install_hint(key) for part in self.registries)), None)

    def prefixes(self) -> Keys:
        return [prefix for part in self.registries for prefix in part.prefixes()]

    @property
    def plugin_failures(self) -> tuple[PluginFailure, ...]:
        return tuple(failure for part in self.registries for failure in part.plugin_failures)

    def refresh(self) -> None:
        for part in self.registries:
            part.refresh()

    def _leftmost(self) -> Writable:
        """Return the leftmost registry. Raises TypeError if it takes no registrations."""
        for part in self.registries:
            if isinstance(part, Writable):
                return part
        raise TypeError(f"{self.name!r} takes no registrations: add a Registry on the left")


def closest(key: str, entries: Iterable[Entry]) -> Entries:
    """Return the entries of the key; those whose namespace/name equals the key, if any, and else by bare name."""
    matches = tuple(entry for entry in entries if key in entry.names or key in entry.claims)
    return tuple(entry for entry in matches if entry.namespace and key in entry.claims) or matches


def _ambiguous(registry: AbstractRegistry, key: str, matches: Entries) -> AmbiguousKeyError:
    lines = "".join(f"\n  {entry.key} {entry.metadata} ({entry.place})" for entry in matches)
    return AmbiguousKeyError(
        f"{key!r} leads to {len(matches)} entries of {registry}: give more of the key, or pass the metadata that "
        f"tells them apart (such as namespace=...), or strict=False for all{lines}"
    )
