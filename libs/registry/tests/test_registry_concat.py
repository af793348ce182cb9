"""Several registries as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from midrib.registry import AmbiguousKeyError, ConcatRegistry, ExternalRegistry, Registry, UnknownKeyError


def load_left() -> tuple[Any, int]:
    """Of the left registry."""
    return abs, 1


def load_right() -> tuple[Any, int]:
    """Of the right registry."""
    return abs, 2


@pytest.fixture()
def left() -> Registry:
    """Holds both and only-left."""
    registry = Registry("left")
    registry(load_left, name="both", namespace="image")
    registry(load_left, name="only-left")
    return registry


@pytest.fixture()
def right() -> Registry:
    """Holds both, only-right, and a deeper both."""
    registry = Registry("right")
    registry(load_right, name="both", namespace="image")
    registry(load_right, name="only-right")
    registry(load_right, name="both", namespace="image", depth=2)
    return registry


def must_not_be_asked() -> Iterator[str]:
    """The names of a catalogue that is far away."""
    raise ConnectionError("asked")


def test_the_left_registry_answers_first(left: Registry, right: Registry) -> None:
    """A key leads to the leftmost registry that knows it."""
    both = left + right
    assert both.get("both") is load_left
    assert both.get("only-right") is load_right
    assert (right + left).get("both", depth=None) is load_right


def test_an_entry_without_the_metadata_is_passed_over(left: Registry, right: Registry) -> None:
    """The left registry knows the key, but not the entry that is asked for."""
    assert (left + right).get("both", depth=2) is load_right


def test_ambiguity_is_within_one_registry(left: Registry, right: Registry) -> None:
    """To the right is shadowed, not ambiguous; two in the answering registry are."""
    assert (left + right).get("both") is load_left
    with pytest.raises(AmbiguousKeyError, match=r"2 entries of the registries 'right', 'left'"):
        (right + left).get("both")


def test_not_strict_gives_every_match_left_to_right(left: Registry, right: Registry) -> None:
    """`strict=False` returns the shadowed entries too."""
    assert (left + right).get("both", strict=False) == [load_left, load_right, load_right]


def test_a_listing_leaves_shadowed_entries_out(left: Registry, right: Registry) -> None:
    """An entry of the same identity further left hides the other one; len, in and iteration agree."""
    both = left + right
    assert list(both) == ["image/both", "image/both", "only-left", "only-right"]
    assert [entry.metadata for entry in both.list("both")] == [{}, {"depth": 2}]
    assert len(both) == 4
    assert "only-right" in both
    assert "neither" not in both


def test_an_explanation_lists_the_shadowed_entries(left: Registry, right: Registry) -> None:
    """It gives key and place of the entries of the same key further right."""
    first, second = (left + right).explain("both").shadows
    assert first.startswith(f"image/both ({__file__}:")
    assert second.startswith(f"image/both ({__file__}:")
    assert (left + right).explain("only-right").shadows == ()


def test_an_unknown_key_is_compared_with_every_registry(left: Registry, right: Registry) -> None:
    """Near names come from all."""
    with pytest.raises(UnknownKeyError, match=r"'only-rigt' is not in .*did you mean 'only-right' or 'only-left'"):
        (left + right).get("only-rigt")


def test_sums_are_flat_and_keep_their_order(left: Registry, right: Registry) -> None:
    """(a + b) + c and a + (b + c) are the same registry."""
    third = Registry("third")
    assert ((left + right) + third).registries == (left + (right + third)).registries == (left, right, third)
    assert (left + right + third).name == "left+right+third"


def test_only_registries_are_added(left: Registry) -> None:
    """Anything else is a TypeError, as for any +."""
    with pytest.raises(TypeError, match="unsupported operand"):
        left + {}  # type: ignore[operator] # wrong on purpose


def test_registering_goes_to_the_leftmost_registry(left: Registry, right: Registry) -> None:
    """So that a look-up finds the new entry."""
    far = ExternalRegistry(load_left, "far", names=must_not_be_asked)
    both = ConcatRegistry(far, left, right)
    both(load_right, name="new")
    assert "new" in left
    both.remove("new")
    assert "new" not in left


def test_a_sum_without_a_registry_cannot_be_registered_in() -> None:
    """A catalogue belongs to another project."""
    far = ExternalRegistry(load_left, "far")
    with pytest.raises(TypeError, match=r"'far' takes no registrations: add a Registry on the left"):
        ConcatRegistry(far)(load_left)


def test_temporary_restores_every_registry(left: Registry, right: Registry) -> None:
    """Also those changed by their own names meanwhile."""
    with (left + right).temporary() as both:
        both(load_right, name="new")
        right.remove("only-right")
    assert "new" not in left
    assert "only-right" in right


def test_a_name_on_the_left_is_found_without_asking_the_right(left: Registry) -> None:
    """A local name resolves although the server to the right does not exist."""
    both = left + ExternalRegistry(load_right, "far", names=must_not_be_asked)
    assert both.get("only-left") is load_left
    assert "only-left" in both
    assert [entry.key for entry in both.list(catalogues=False)] == ["image/both", "only-left"]
    with pytest.raises(ConnectionError, match="asked"):
        both.get("elsewhere")


def test_a_catalogue_that_cannot_list_its_names_is_asked_last(right: Registry) -> None:
    """On the left of a registry it would otherwise hide every entry of it."""
    both = ExternalRegistry(lambda model: (abs, 9), "open") + right
    assert both.get("only-right") is load_right
    assert both.load("anything") == (abs, 9)
