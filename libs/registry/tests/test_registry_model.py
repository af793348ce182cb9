"""The laws of register, get, remove, override and concat, against a list of rows."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from midrib.registry import AmbiguousKeyError, DuplicateKeyError, Registry, UnknownKeyError
from midrib.registry._selection import natural

# Few and overlapping, so that clashes, shadows and look-alikes are common.
NAMES = st.sampled_from(["x", "y", "a/x", "b/a/x"])
NAMESPACES = st.sampled_from([None, "a", "b", "b/a"])
TAGS = st.sampled_from([{}, {"depth": 1}, {"depth": 2}])
ALIASES = st.lists(NAMES, max_size=1, unique=True).map(tuple)
KEYS = st.sampled_from(["x", "y", "a/x", "b/x", "b/a/x", "a/y", "b/b/a/x", "a/b/a/x", "b/a/b/a/x", "z"])


@dataclass(frozen=True)
class Loader:
    """Its number distinguishes registrations, after pickling too."""

    number: int

    def __call__(self) -> tuple[Any, int]:
        return abs, self.number


class Row(NamedTuple):
    """The model's record of one registration."""

    names: tuple[str, ...]
    namespace: str | None
    tags: dict[str, Any]
    loader: Loader

    @property
    def claims(self) -> set[str]:
        """The keys that are this row's own."""
        return {f"{self.namespace}/{name}" if self.namespace else name for name in self.names}

    @property
    def key(self) -> str:
        """The key of its first name."""
        return f"{self.namespace}/{self.names[0]}" if self.namespace else self.names[0]

    def clashes(self, other: Row) -> bool:
        """Whether both claim one identity."""
        return bool(self.claims & other.claims) and self.tags == other.tags


def matching(rows: Iterable[Row], key: str, tags: dict[str, Any]) -> list[Loader]:
    """The loaders that the key leads to: those that own it within a namespace, or else all that have the name."""
    fitting = [row for row in rows if tags.items() <= row.tags.items()]
    owners = [row.loader for row in fitting if row.namespace and key in row.claims]
    return owners or [row.loader for row in fitting if key in row.names]


class RegistryMachine(RuleBasedStateMachine):
    """Two registries and their sum, beside two lists of rows."""

    @initialize()
    def start(self) -> None:
        self.registries = [Registry("left"), Registry("right")]
        self.rows: list[list[Row]] = [[], []]
        self.count = 0

    @rule(
        side=st.sampled_from([0, 1]), name=NAMES, space=NAMESPACES, tags=TAGS, aliases=ALIASES, override=st.booleans()
    )
    def register(
        self, side: int, name: str, space: str | None, tags: dict[str, Any], aliases: tuple[str, ...], override: bool
    ) -> None:
        """A clash is refused and changes nothing, unless it is with the very key and that is overridden."""
        self.count += 1
        row = Row((name, *aliases), space, tags, Loader(self.count))
        clashing = [other for other in self.rows[side] if row.clashes(other)]
        declared: dict[str, Any] = {"namespace": space, "aliases": aliases, **tags}
        if clashing and not (override and all(other.key == row.key for other in clashing)):
            with pytest.raises(DuplicateKeyError, match="registered at .* and again at"):
                self.registries[side](row.loader, name, override=override, **declared)
            return
        assert self.registries[side](row.loader, name, override=override, **declared) is row.loader
        self.rows[side] = [other for other in self.rows[side] if other not in clashing] + [row]

    @rule(side=st.sampled_from([0, 1]), key=KEYS, tags=TAGS)
    def remove(self, side: int, key: str, tags: dict[str, Any]) -> None:
        """All that matches goes; nothing that does not."""
        gone = matching(self.rows[side], key, tags)
        if not gone:
            with pytest.raises(UnknownKeyError, match="is not in"):
                self.registries[side].remove(key, **tags)
        else:
            self.registries[side].remove(key, **tags)
        self.rows[side] = [row for row in self.rows[side] if row.loader not in gone]

    @rule(key=KEYS, tags=TAGS)
    def get(self, key: str, tags: dict[str, Any]) -> None:
        """The left registry answers if it can; all matches, left to right, where not strict."""
        both = self.registries[0] + self.registries[1]
        matches = [matching(rows, key, tags) for rows in self.rows]
        first = matches[0] or matches[1]
        if not first:
            with pytest.raises(UnknownKeyError, match="is not in"):
                both.get(key, strict=False, **tags)
        else:
            assert both.get(key, strict=False, **tags) == matches[0] + matches[1]
        if len(first) == 1:
            assert both.get(key, **tags) == first[0]
            assert both.get(key, with_metadata=True, **tags).load() == (abs, first[0].number)
        else:
            with pytest.raises((UnknownKeyError, AmbiguousKeyError), match="is not in|leads to"):
                both.get(key, **tags)

    @rule(side=st.sampled_from([0, 1]), name=NAMES, key=KEYS)
    def change_temporarily(self, side: int, name: str, key: str) -> None:
        """Whatever is done within, the invariants of before hold after."""
        with self.registries[side].temporary() as registry:
            registry(Loader(0), name, override=True, only="here")
            registry(Loader(0), "z", override=True)
            registry.remove(key if key in registry else "z")

    @rule(side=st.sampled_from([0, 1]))
    def send_to_another_process(self, side: int) -> None:
        """A pickled registry continues where the first one was."""
        self.registries[side] = pickle.loads(pickle.dumps(self.registries[side]))

    @invariant()
    def listings_agree(self) -> None:
        """len, iteration, available_keys, list and `in` agree, in natural order."""
        for registry, rows in zip(self.registries, self.rows, strict=True):
            keys = sorted((row.key for row in rows), key=natural)
            assert list(registry) == keys == [entry.key for entry in registry.list()]
            assert len(registry) == len(keys)
            assert registry.available_keys() == sorted(set(keys), key=natural)
            for key in ("x", "a/x", "b/a/x", "z"):
                assert (key in registry) == bool(matching(rows, key, {}))

    @invariant()
    def the_sum_lists_what_it_reaches(self) -> None:
        """An entry of the same key and tags further left hides one further right, and only that."""
        left, right = self.rows
        hidden = [row for row in right if any(row.key == other.key and row.tags == other.tags for other in left)]
        both = self.registries[0] + self.registries[1]
        assert list(both) == sorted((row.key for row in [*left, *right] if row not in hidden), key=natural)


RegistryMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=25)
TestRegistryLaws = RegistryMachine.TestCase


@given(
    st.lists(st.text(st.sampled_from("ab019²"), max_size=6)).flatmap(
        lambda keys: st.tuples(st.just(keys), st.permutations(keys))
    )
)
def test_natural_order_is_an_order(orders: tuple[list[str], list[str]]) -> None:
    """Any keys can be compared, and the order does not depend on how they came."""
    keys, shuffled = orders
    assert sorted(keys, key=natural) == sorted(shuffled, key=natural)


@given(st.integers(0, 10**20), st.integers(0, 10**20))
def test_natural_order_is_that_of_the_numbers(left: int, right: int) -> None:
    """A number within a key counts as a number."""
    assert (natural(f"mlp-{left}") < natural(f"mlp-{right}")) == (left < right)
